"""Resident memory of a service that has answered: an LLM version live, a SASRec version as its previous.

    make bench            (or: pytest tests/benchmarks/bench_memory.py -s)

SmolLM2-135M with 4 of its layers over 1,682 items, the size of the demo's; bfloat16 in the bundle, computed in float32
where the processor only emulates bfloat16.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from model_store.staging import BundleParts
from model_store.store import ModelStore

if TYPE_CHECKING:
    from tests.benchmarks.conftest import Served

REQUESTS = 1_000
ITEMS, DIM, HISTORY, LAYERS = 1682, 64, 50, 4
MOST_GB = 1.5


def test_resident_memory_after_a_thousand_requests(
    tmp_path: Path,
    sasrec: BundleParts,
    real_language_model: Callable[..., BundleParts],
    publish: Callable[[ModelStore, BundleParts], str],
    start: Callable[[ModelStore, Path], AbstractContextManager[Served]],
    report: Callable[[str, float, float, str], None],
) -> None:
    store = ModelStore(tmp_path / "store")
    previous = publish(store, sasrec)
    live = publish(store, real_language_model(keep_layers=LAYERS, items=ITEMS, dim=DIM, max_history=HISTORY))
    draw = random.Random(0)
    with start(store, tmp_path / "data") as served:
        until = time.monotonic() + 120
        while loaded(served) != {live, previous}:
            assert time.monotonic() < until, "not both versions came into memory"
            time.sleep(0.2)
        for _ in range(REQUESTS):
            history = [f"smollm2-{draw.randrange(ITEMS)}" for _ in range(draw.randint(1, 2 * HISTORY))]
            status, answer = served.ask("POST", "/v1/recommend", json.dumps({"history": history}))
            assert (status, json.loads(answer)["version"]) == (200, live)
        resident = psutil.Process(served.process.pid).memory_info().rss
    report(f"Resident memory after {REQUESTS} requests", resident / 1e9, MOST_GB, "GB")


def loaded(served: Served) -> set[str]:
    """Versions in memory; one connection, so nothing is asked beside it."""
    _, answer = served.ask("GET", "/v1/models")
    return {model["version"] for model in json.loads(answer)["models"] if model["state"] == "READY"}
