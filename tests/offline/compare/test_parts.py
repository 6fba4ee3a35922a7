from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_store.store import ModelStore
from offline.compare.parts import joined, part_file, rank_part, version_in
from offline.evaluation.full_ranking import evaluate
from offline.evaluation.version_scores import split_of
from offline.pipeline import run
from offline.run_config import RunConfig
from offline.workspace import Workspace


@pytest.mark.parametrize("protocol", ["last-10", "temporal"])
def test_a_part_at_a_time_is_the_whole(
    write_run: Callable[..., Path], store: ModelStore, workspace: Workspace, *, tmp_path: Path, protocol: str
) -> None:
    version = run(RunConfig.load(write_run("e", "ease", protocol=protocol)), store=store, workspace=workspace)
    bundle, data = store.open(version), split_of(store.manifest(version))
    files = [part_file(tmp_path, "e", part, 3) for part in range(3)]
    for part, file in enumerate(files):
        rank_part(bundle, data, file, part=part, parts=3)
    whole, found = evaluate(bundle, data.test, seen_removed=True), joined(files, data)
    np.testing.assert_array_equal(found.top_rows, whole.top_rows)
    np.testing.assert_array_equal(found.ranks, whole.ranks)
    assert found.mean("ndcg@10") == whole.mean("ndcg@10")
    before = files[0].stat().st_mtime_ns
    rank_part(bundle, data, files[0], part=0, parts=3)
    assert files[0].stat().st_mtime_ns == before, "what is there is not made again"


def test_a_part_of_another_version_is_made_again(
    write_run: Callable[..., Path], store: ModelStore, workspace: Workspace, tmp_path: Path
) -> None:
    """The same recipe under another budget has the same name and other lists."""
    versions = [
        run(RunConfig.load(write_run(f"e{tau}", "ease", lam="5", tau=tau)), store=store, workspace=workspace)
        for tau in ("1", "1000")
    ]
    data, file = split_of(store.manifest(versions[0])), part_file(tmp_path, "e", 0, 1)
    for version in versions:
        rank_part(store.open(version), data, file, part=0, parts=1)
        assert version_in(file) == version
    expected = evaluate(store.open(versions[1]), data.test, seen_removed=True)
    np.testing.assert_array_equal(joined([file], data).top_rows, expected.top_rows)
