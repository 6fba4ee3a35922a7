"""Every version in the store answers over HTTP: one service, the label moved through all of them.

    make bench            (or: pytest tests/benchmarks/bench_every_version.py -s)

The versions are those of NAISEKI_STORE (default ./model_store/bundles), seen through links: the store's own labels stay
where they are. The histories are those that each bundle proves itself with, real ones; a version asked twice the same
would be answered from a cache.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from model_store.catalog import ItemCatalog
from model_store.golden import GoldenQueries
from model_store.store import ModelStore

if TYPE_CHECKING:
    from tests.benchmarks.conftest import Served

HISTORIES = 20
LOAD_SECONDS = 120


@pytest.fixture
def linked(tmp_path: Path) -> ModelStore:
    """All versions that can be read, under labels of this benchmark's own."""
    source = ModelStore(Path(os.environ.get("NAISEKI_STORE", "model_store/bundles")).resolve())
    names = [manifest.version for manifest in source.list()]
    if not names:
        pytest.skip(f"{source.root} HOLDS NO VERSION, so none was asked: set NAISEKI_STORE")
    for name in [*names, *(["bases"] if (source.root / "bases").exists() else [])]:
        shutil.copytree(source.root / name, tmp_path / "store" / name, copy_function=link)
    return ModelStore(tmp_path / "store")


def link(source: str, target: str) -> None:
    """A hard link, for a store does not follow others; a copy where the two lie on different disks."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def test_every_version_answers(
    tmp_path: Path,
    linked: ModelStore,
    start: Callable[[ModelStore, Path], AbstractContextManager[Served]],
) -> None:
    manifests = linked.list()
    failures: list[str] = []
    linked.activate(manifests[0].version, by="bench")
    sys.stdout.write(f"\n{'version':<46} {'family':<11} {'encoder':<15} {'p50 ms':>8} {'rank ms':>8}  ok")
    with start(linked, tmp_path / "data") as served:
        for manifest in manifests:
            body = json.dumps({"version": manifest.version})
            status, answer = served.ask("PUT", f"/v1/labels/live?wait={LOAD_SECONDS}", body)
            times, ranks, ok = [float("nan")], [float("nan")], status == 200
            if ok:
                times, ranks, ok = asked(served, linked.folder(manifest.version), manifest.version)
            if not ok:
                failures.append(f"{manifest.version}: {status} {answer[:300]!r}")
            sys.stdout.write(
                f"\n{manifest.version:<46} {manifest.family:<11} {manifest.encoder.kind:<15} "
                f"{statistics.median(times):>8.2f} {statistics.median(ranks):>8.2f}  {'yes' if ok else 'NO'}"
            )
            sys.stdout.flush()
    sys.stdout.write("\n")
    assert not failures, "\n".join(failures)


def asked(served: Served, folder: Path, version: str) -> tuple[list[float], list[float], bool]:
    """Milliseconds of each answer, those of its ranking, and whether each was ten items of this version."""
    ids = ItemCatalog.read(folder / "items.parquet").ids
    histories = GoldenQueries.read(folder).histories
    times, ranks, ok = [], [], True
    for q in range(min(HISTORIES, len(histories))):
        body = json.dumps({"history": [ids[row] for row in histories.history(q).tolist()], "k": 10})
        started = time.perf_counter()
        status, answer = served.ask("POST", "/v1/recommend", body)
        times.append(1000 * (time.perf_counter() - started))
        told = json.loads(answer)
        ok &= status == 200 and told["version"] == version and len(told["items"]) == 10 and told["fallback"] is None
        ranks.append(told["timings_ms"]["rank"] if status == 200 else float("nan"))
    return times, ranks, ok
