"""What the service adds to a request at concurrency 1: HTTP, validation, queue, threads, JSON.

    make bench            (or: pytest tests/benchmarks/bench_service.py -s)

Bare: encode + search of the same history, in this process, one thread. Served: one keep-alive connection to a server in
a process of its own. The two alternate, so that a busy machine slows both.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.retrieval import Want
from model_store.staging import BundleParts
from model_store.store import ModelStore

if TYPE_CHECKING:
    from tests.benchmarks.conftest import Served

ROUNDS = 600
MOST_ADDED_MS = 3.0


def test_what_the_service_adds(
    tmp_path: Path,
    sasrec: BundleParts,
    publish: Callable[[ModelStore, BundleParts], str],
    start: Callable[[ModelStore, Path], AbstractContextManager[Served]],
    report: Callable[[str, float, float, str], None],
) -> None:
    torch.set_num_threads(1)
    store = ModelStore(tmp_path / "store")
    bundle = store.open(publish(store, sasrec))
    generator = np.random.default_rng(0)
    times: dict[str, list[float]] = {"bare": [], "served": [], "inside": []}
    with start(store, tmp_path / "data") as served:
        for _ in range(ROUNDS):
            rows = generator.integers(0, len(bundle.catalog), bundle.manifest.max_history).tolist()
            times["bare"].append(bare(bundle, rows))
            body = json.dumps({"history": [str(row) for row in rows]})
            started = time.perf_counter()
            status, answer = served.ask("POST", "/v1/recommend", body)
            times["served"].append(time.perf_counter() - started)
            assert status == 200
            times["inside"].append(json.loads(answer)["timings_ms"]["total"] / 1000)
    p50 = {name: 1000 * statistics.median(seconds) for name, seconds in times.items()}
    sys.stdout.write(
        f"\np50 of {ROUNDS}: bare {p50['bare']:.2f} ms, served {p50['served']:.2f} ms "
        f"({p50['inside']:.2f} ms of it inside recommend)"
    )
    report("What the service adds to a request, p50", p50["served"] - p50["bare"], MOST_ADDED_MS, "ms")


def bare(bundle: Bundle, rows: list[int]) -> float:
    want = Want(10, excluded_rows=np.unique(rows))
    started = time.perf_counter()
    bundle.search(bundle.encode(HistoryBatch.of([rows])).vectors_BD, [want])
    return time.perf_counter() - started
