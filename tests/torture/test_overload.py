"""Twice as many requests as can be answered, none of which a cache has seen: who is not answered is told so at once."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.settings import Settings
from model_store.encoders.sequence import SequenceConfig
from model_store.store import ModelStore
from tests.app.conftest import publish_parts
from tests.conftest import smollm2_parts
from tests.torture.bundles import TwoVersions, request_of
from tests.torture.figures import Figures
from tests.torture.http_connection import request_bytes
from tests.torture.load import OpenLoad, peak, percentile_ms
from tests.torture.service_process import ServiceProcess

PATIENCE_MS, SHORT_PATIENCE_MS = 2000, 500  # of every request; the short form's small model answers a thousand a second
SECONDS, SHORT_SECONDS = 60.0, 1.5
PEAK_SECONDS = 15.0
# Tests that run side by side hold a small model up for longer than its connections last. Figures are taken as it comes.
SHORT_CONNECTIONS, CONNECTIONS = 8192, Settings.model_fields["connections"].default
ROUNDS = 5  # of the 60 seconds, for the percentile
TOLD = (429, 504)  # refused at once; admitted, and told in time that it will not be
START = "overload at 2 x peak, SmolLM2: "
LIGHT = "overload at 2 x peak, bundle with a fallback: light answers"


@dataclass
class Overloaded:
    """goodput: answers per second over those at peak, the mean of before and after: machines drift. reject_ms: p99, of
    five rounds the least.
    """

    goodput: float
    reject_ms: float
    rejects: int
    light: int
    neither: list[str]


def unseen(versions: TwoVersions, *, patience_ms: int = PATIENCE_MS) -> Callable[[int], bytes]:
    draw = random.Random(0)
    return lambda n: request_bytes("POST", "/v1/recommend", request_of(versions.unseen(draw), timeout_ms=patience_ms))


async def overload(service: ServiceProcess, versions: TwoVersions, *, full: bool) -> Overloaded:
    request = unseen(versions, patience_ms=PATIENCE_MS if full else SHORT_PATIENCE_MS)
    seconds = SECONDS if full else SHORT_SECONDS
    peak_seconds = PEAK_SECONDS if full else 1
    before = await peak(service.port, request, seconds=peak_seconds, clients=32)
    async with OpenLoad(service.port, request, 2 * before) as load:
        await asyncio.sleep(seconds)
        await load.ended()
    most = (before + await peak(service.port, request, seconds=peak_seconds, clients=32)) / 2
    start = min(one.due for one in load.sent)
    answered = [one for one in load.sent if one.answer.status == 200]
    whole = [one for one in answered if b'"fallback":null' in one.answer.body.replace(b" ", b"")]
    took = max(one.done for one in answered) - start
    rounds = [load.between(start + n * seconds / ROUNDS, start + (n + 1) * seconds / ROUNDS) for n in range(ROUNDS)]
    rejects = [[one.seconds - one.late for one in sent if one.answer.status == 429] for sent in rounds]
    return Overloaded(
        goodput=len(whole) / took / most,
        reject_ms=min((percentile_ms(found) for found in rejects if found), default=float("nan")),
        rejects=sum(map(len, rejects)),
        light=sum(json.loads(one.answer.body)["fallback"] == "light" for one in answered),
        neither=[str(one.answer)[:500] for one in load.sent if one.answer.status not in (200, *TOLD)],
    )


def test_overload(two_versions: Callable[[str], TwoVersions], tmp_path: Path, full: bool, figures: Figures) -> None:
    versions = two_versions("SmolLM2")
    with ServiceProcess(
        versions.store.root, tmp_path / "data", pinned=full, prepared=(versions.first,), redis_url="none",
        log_level="warning", connections=CONNECTIONS if full else SHORT_CONNECTIONS,
    ) as service:  # fmt: skip
        told = asyncio.run(overload(service, versions, full=full))
        assert service.http.get("/readyz").status_code == 200
    figures.tell(START + "goodput over peak", told.goodput)
    if told.rejects:
        figures.tell(START + "p99 of a reject", told.reject_ms)
    else:
        figures.not_measured(START + "p99 of a reject", "nothing was refused")
    figures.tell(START + "neither answered nor refused", len(told.neither))
    assert not told.neither, told.neither[0]


def test_light_answers(tmp_path: Path, full: bool, figures: Figures) -> None:
    """A bundle with a second, light encoder in the same item space answers with that before it refuses."""
    items, dim, history = (1682, 64, 50) if full else (60, 8, 12)
    parts = smollm2_parts(keep_layers=6 if full else 1, items=items, dim=dim, max_history=history)
    config = SequenceConfig(items=items, dim=dim, blocks=1, heads=2, max_history=history, jump=max(1, history // 4))
    store = ModelStore(tmp_path / "store")
    try:
        version = publish_parts(store, dataclasses.replace(parts, fallback=config.build().eval()))
    except ValueError as refused:
        figures.not_measured(LIGHT, str(refused))
        pytest.skip(f"NOT TORTURED: {refused}")
    store.activate(version, by="torture")
    versions = TwoVersions(store, ("smollm2", "none"), version, version, items, history)
    with ServiceProcess(
        store.root, tmp_path / "data", pinned=full, prepared=(version,), redis_url="none", log_level="warning",
        connections=CONNECTIONS if full else SHORT_CONNECTIONS,
    ) as service:  # fmt: skip
        told = asyncio.run(overload(service, versions, full=full))
    figures.tell(LIGHT, told.light)
    assert not told.neither, told.neither[0]
