"""From starting the process until it is ready, with a SASRec version live: the first time and the second.

    make bench            (or: pytest tests/benchmarks/bench_start.py -s)

The first start checks and copies the version in a child process; the second finds the copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from model_store.staging import BundleParts
from model_store.store import ModelStore

if TYPE_CHECKING:
    from tests.benchmarks.conftest import Served

MOST_SECONDS = {"first": 10.0, "second": 5.0}


def test_start_to_ready(
    tmp_path: Path,
    sasrec: BundleParts,
    publish: Callable[[ModelStore, BundleParts], str],
    start: Callable[[ModelStore, Path], AbstractContextManager[Served]],
    report: Callable[[str, float, float, str], None],
) -> None:
    store = ModelStore(tmp_path / "store")
    publish(store, sasrec)
    for which, most in MOST_SECONDS.items():
        started = time.perf_counter()
        with start(store, tmp_path / "data"):
            seconds = time.perf_counter() - started
        report(f"Start to ready, {which} time", seconds, most, "s")
