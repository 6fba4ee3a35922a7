"""The inference thread raises, meets a poisoned request, hangs: nobody waits for an answer that will not come."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.demo.processes import Processes
from deploy.demo.supervised import Backoff, Supervised
from tests.torture.bundles import TwoVersions, request_of
from tests.torture.faulty_service import HANGING, POISONED
from tests.torture.figures import Figures
from tests.torture.http_connection import Answer, Connections, request_bytes
from tests.torture.service_process import ServiceProcess

PENDING = 8
HANG_SECONDS = 1.0  # a batch that takes longer, and four times its estimate, counts as hanging
PROGRAM = ("-m", "tests.torture.faulty_service")
EXCEPTION, HANG = "exception in the inference thread, SmolLM2: ", "hang of the inference thread, SmolLM2: "
AGAIN = "the inference thread failed and is started again"
WATCHED = importlib.util.find_spec("app.hang_watch") is not None
Versions = Callable[[str], TwoVersions]


def start(versions: TwoVersions, data: Path, *, full: bool) -> ServiceProcess:
    return ServiceProcess(
        versions.store.root, data, pinned=full, program=PROGRAM, prepared=(versions.first,), redis_url="none"
    )


def ask(versions: TwoVersions, *rows: int) -> bytes:
    history = [f"{versions.families[0]}-{row}" for row in rows]
    return request_bytes("POST", "/v1/recommend", request_of(history))


async def status_of(service: ServiceProcess) -> int:
    async with Connections(service.port) as connections:
        return (await connections.ask(request_bytes("GET", "/readyz"), seconds=1)).status


async def until(condition: Callable[[int], bool], service: ServiceProcess, *, since: float, limit: float) -> float:
    """Seconds since `since` when the status of /readyz first is so."""
    while not condition(await status_of(service)):
        assert time.perf_counter() - since < limit, f"not within {limit} s"
        await asyncio.sleep(0.01)
    return time.perf_counter() - since


@dataclass
class Hurt:
    """Seconds since the fault; answers of those who waited."""

    off: float
    answered: float
    back: float
    answers: list[Answer]


async def interrupt(service: ServiceProcess, versions: TwoVersions) -> Hurt:
    """The thread waits for work when the exception reaches it; it meets it when work comes."""
    async with Connections(service.port) as connections:
        assert (await connections.ask(ask(versions, 1))).status == 200
        service.signal(signal.SIGUSR1)
        await asyncio.sleep(0.2)
        since = time.perf_counter()
        pending = [asyncio.create_task(connections.ask(ask(versions, 20 + n), seconds=20)) for n in range(PENDING)]
        off = await until(lambda status: status == 503 or AGAIN in service.log_text(), service, since=since, limit=20)
        answers = list(await asyncio.gather(*pending))
        answered = time.perf_counter() - since
        back = await until(lambda status: status == 200, service, since=since, limit=20)
        assert (await connections.ask(ask(versions, 2))).status == 200
    return Hurt(off, answered, back, answers)


def test_an_exception(two_versions: Versions, tmp_path: Path, full: bool, figures: Figures) -> None:
    """And a poisoned request, whose neighbours of the same batch must not notice."""
    versions = two_versions("SmolLM2")
    with start(versions, tmp_path / "data", full=full) as service:
        hurt = asyncio.run(interrupt(service, versions))
        assert AGAIN in service.log_text()
        service.signal(signal.SIGUSR2)
        with_poison = asyncio.run(poison(service, versions, rounds=5 if full else 1))
        assert "a poisoned history" in service.log_text()
    figures.tell(EXCEPTION + "readiness off, or the thread back, after", hurt.off)
    figures.tell(EXCEPTION + "pending answered after", hurt.answered)
    figures.tell(EXCEPTION + "back after", hurt.back)
    figures.tell("poisoned request, SmolLM2: others that failed with it", len(with_poison))
    assert {answer.status for answer in hurt.answers} <= {200, 503}
    assert not with_poison, with_poison[0]


async def poison(service: ServiceProcess, versions: TwoVersions, *, rounds: int) -> list[Answer]:
    """Answers of healthy requests that are no answers; and the poisoned one must be refused, not answered."""
    failed = []
    async with Connections(service.port) as connections:
        for _ in range(rounds):
            poisoned = asyncio.create_task(connections.ask(ask(versions, POISONED)))
            others = [asyncio.create_task(connections.ask(ask(versions, 20 + n))) for n in range(PENDING)]
            assert (await poisoned).status == 500
            failed += [answer for answer in await asyncio.gather(*others) if answer.status != 200]
    return failed


async def hang(service: ServiceProcess, versions: TwoVersions) -> Hurt:
    async with Connections(service.port) as connections:
        since = time.perf_counter() + HANG_SECONDS
        first = asyncio.create_task(connections.ask(ask(versions, HANGING), seconds=30))
        await asyncio.sleep(0.1)
        pending = [asyncio.create_task(connections.ask(ask(versions, 20 + n), seconds=30)) for n in range(PENDING)]
        off = await until(lambda status: status != 200, service, since=since, limit=30)
        answers = list(await asyncio.gather(first, *pending))
        answered = time.perf_counter() - since
        back = await until(lambda status: status == 200, service, since=since, limit=120)
    return Hurt(off, answered, back, answers)


def test_a_hang(two_versions: Versions, tmp_path: Path, full: bool, figures: Figures) -> None:
    """Under the supervisor of `make demo`, which starts the service again when it has ended itself."""
    if not WATCHED:
        figures.not_measured(HANG, "nothing watches the inference thread yet")
        pytest.skip("NOT TORTURED: nothing watches the inference thread yet")
    versions = two_versions("SmolLM2")
    service, processes = start(versions, tmp_path / "data", full=full), Processes()
    supervised = Supervised(processes, service.command, service.environment, log=service.log, backoff=Backoff())
    try:
        supervised.start()
        wait_ready(service)
        service.recommend(history=[f"{versions.families[0]}-1"]).raise_for_status()
        for process in processes._started:
            process.send_signal(signal.SIGUSR2)
        hurt = asyncio.run(hang(service, versions))
    finally:
        processes.stop()
        service.stop()
    figures.tell(HANG + "readiness off, once it counts as one, after", max(0.0, hurt.off))
    figures.tell(HANG + "pending answered, once it counts as one, after", max(0.0, hurt.answered))
    figures.tell(HANG + "back under the demo's supervisor after", hurt.back)
    assert {answer.status for answer in hurt.answers} <= {503}
    assert supervised.deaths_in_a_row >= 1


def wait_ready(service: ServiceProcess) -> None:
    end = time.monotonic() + 120
    while not service.is_ready():
        assert time.monotonic() < end, service.log_text()[-3000:]
        time.sleep(0.1)
