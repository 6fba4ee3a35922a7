"""Versions are exchanged under load: nothing fails, nothing is mixed, and memory does not grow."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.torture.answers import is_mixed
from tests.torture.bundles import TwoVersions, request_of
from tests.torture.figures import Figures
from tests.torture.http_connection import Connections, request_bytes
from tests.torture.load import OpenLoad, Sent, failed, peak, percentile_ms
from tests.torture.service_process import ServiceProcess
from tests.torture.timed_service import WORD

SHORT_RATE, SHARE_OF_PEAK = 30.0, 0.6
SWAPS = {"sequence": 100, "SmolLM2": 10}
MEMORY_AFTER = 50
ROLLBACKS = 20
# About as long as a load: a percentile of fewer requests scatters more, and the least of five rounds is taken.
STEADY_SECONDS = 20.0
Window = tuple[float, float]
Swapped = tuple[list[Sent], list[Window], list[int]]
profiles = pytest.mark.parametrize("profile", ["sequence", pytest.param("SmolLM2", marks=pytest.mark.slow)])


def body(versions: TwoVersions) -> Callable[[int], bytes]:
    return lambda n: request_bytes("POST", "/v1/recommend", request_of(versions.history(n)))


async def swap(service: ServiceProcess, versions: TwoVersions, *, swaps: int, full: bool, steady: float) -> Swapped:
    """The requests of the load, each swap's time from the wish to its fulfilment, resident bytes after each swap.

    steady: seconds without a swap before each.
    """
    request = body(versions)
    rate = SHARE_OF_PEAK * await peak(service.port, request, seconds=10) if full else SHORT_RATE
    windows, memory = [], []
    async with OpenLoad(service.port, request, rate) as load, Connections(service.port) as operator:
        for n in range(swaps):
            await asyncio.sleep(steady)
            wish = json.dumps({"version": (versions.second, versions.first)[n % 2]}).encode()
            started = time.perf_counter()
            moved = await operator.ask(request_bytes("PUT", "/v1/labels/live?wait=120", wish), seconds=150)
            assert moved.status == 200, moved.body
            windows.append((started, time.perf_counter()))
            memory.append(service.resident_bytes())
        await asyncio.sleep(min(steady, 1))
        await load.ended()
        return load.sent, windows, memory


def mixed(sent: list[Sent], versions: TwoVersions) -> list[str]:
    told = [is_mixed(json.loads(one.answer.body), versions.families) for one in sent if one.answer.status == 200]
    return [reason for reason in told if reason is not None]


@profiles
def test_swaps_under_load(
    profile: str, two_versions: Callable[[str], TwoVersions], tmp_path: Path, full: bool, figures: Figures
) -> None:
    """Only one version is kept, so that every swap is a load, a publish step and an unload."""
    versions, swaps = two_versions(profile), SWAPS[profile] if full else 3
    steady = (STEADY_SECONDS if profile == "SmolLM2" else 0.3) if full else 0.4
    with ServiceProcess(
        versions.store.root, tmp_path / "data", pinned=full, program=("-m", "tests.torture.timed_service"),
        prepared=(versions.first, versions.second), redis_url="none", keep_previous=False,
    ) as service:  # fmt: skip
        sent, windows, memory = asyncio.run(swap(service, versions, swaps=swaps, full=full, steady=steady))
        steps = [float(line["ms"]) for line in service.logged(WORD)]
    assert len(sent) > 10 * swaps
    start = f"{SWAPS[profile]} swaps under load, {profile}: "
    lost, wrong = failed(sent), mixed(sent, versions)
    figures.tell(start + "failed", len(lost))
    figures.tell(start + "mixed", len(wrong))
    if profile == "sequence":
        figures.tell(start + "longest publish step", max(steps[1:]))  # the first is the start, which nobody waits for
        if full:
            figures.tell(
                "resident memory after 50 swaps over after the first, sequence", memory[MEMORY_AFTER - 1] / memory[0]
            )
    else:
        figures.tell(start + "p99 in load windows over steady p99", slowed(sent, windows, steady=steady))
    assert not lost, lost[0]
    assert not wrong, wrong[0]


def slowed(sent: list[Sent], windows: list[Window], *, steady: float) -> float:
    """p99 within the windows over p99 before them, two swaps a round; of the rounds the least of each."""
    rounds = [windows[n : n + 2] for n in range(0, len(windows), 2)]

    def p99(spans: list[Window]) -> float:
        return percentile_ms([one.seconds for one in sent if any(start <= one.due < end for start, end in spans)])

    loading = min(p99(spans) for spans in rounds)
    calm = min(p99([(start - steady + 1, start) for start, _ in spans]) for spans in rounds) if steady > 1 else loading
    return loading / calm


@profiles
def test_rollback(
    profile: str, two_versions: Callable[[str], TwoVersions], tmp_path: Path, full: bool, figures: Figures
) -> None:
    """From the call to its answer, which comes when this process serves the other version; the median."""
    versions = two_versions(profile)
    versions.store.activate(versions.second, by="torture")
    with ServiceProcess(
        versions.store.root, tmp_path / "data", pinned=full, prepared=(versions.first, versions.second),
        redis_url="none",
    ) as service:  # fmt: skip
        service.resident(versions.first, versions.second)
        seconds = []
        for n in range(ROLLBACKS if full else 4):
            started = time.perf_counter()
            answer = service.http.post("/v1/rollback?wait=30")
            seconds.append(time.perf_counter() - started)
            assert answer.status_code == 200, answer.text
            assert answer.json()["serving"]["live"] == (versions.first, versions.second)[n % 2]
    figures.tell(f"rollback to the resident version, {profile}", percentile_ms(seconds, 50))
