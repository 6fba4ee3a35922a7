from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_store.bundle import Bundle
from model_store.errors import UnknownVersion
from model_store.store import ModelStore
from offline.datasets import BUILT_IN
from offline.evaluation import version_scores
from offline.evaluation.full_ranking import evaluate
from offline.evaluation.version_scores import data_of, queries_of, resolve, scores_of, split_of
from offline.pipeline import run
from offline.run_config import RunConfig, RunRefused
from offline.workspace import Workspace

WriteRun = Callable[..., Path]


@pytest.fixture
def version(write_run: WriteRun, store: ModelStore, workspace: Workspace) -> str:
    return run(RunConfig.load(write_run("tiny", "ease", lam="5")), store=store, workspace=workspace)


def _no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(folder: Path, device: str = "cpu") -> Bundle:
        raise AssertionError("the bundle was opened again")

    monkeypatch.setattr(Bundle, "load", load)


@pytest.mark.parametrize("subset", ["validation", "test"])
@pytest.mark.parametrize("seen_removed", [True, False])
def test_scores_are_measured_once(
    version: str,
    store: ModelStore,
    workspace: Workspace,
    *,
    subset: version_scores.Subset,
    seen_removed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = store.manifest(version)
    queries = queries_of(split_of(manifest), subset)
    assert len(queries) == (24 if subset == "validation" else 240)
    expected = evaluate(store.open(version), queries, seen_removed=seen_removed)
    settings = {"store": store, "workspace": workspace}
    first = scores_of(manifest, subset=subset, seen_removed=seen_removed, **settings)  # type: ignore[arg-type]
    _no_bundle(monkeypatch)
    second = scores_of(manifest, subset=subset, seen_removed=seen_removed, **settings)  # type: ignore[arg-type]
    for scores in (first, second):
        assert scores.seen_removed == seen_removed
        for name in ("users", "targets", "top_rows", "ranks"):
            assert np.array_equal(getattr(scores, name), getattr(expected, name)), name
    with pytest.raises(AssertionError, match="again"):
        scores_of(manifest, subset=subset, seen_removed=not seen_removed, **settings)  # type: ignore[arg-type]


def test_what_was_measured_agrees_with_the_manifest(version: str, store: ModelStore, workspace: Workspace) -> None:
    manifest = store.manifest(version)
    scores = scores_of(manifest, subset="validation", seen_removed=True, store=store, workspace=workspace)
    for metric in manifest.metrics:
        assert metric.value == pytest.approx(float(scores.values(metric.name).mean()), abs=1e-12)


def test_a_run_is_its_newest_version_of_every_seed(
    write_run: WriteRun, store: ModelStore, workspace: Workspace
) -> None:
    config = RunConfig.load(write_run("tiny", "ease", lam="5"))
    made = {seed: run(config.with_seed(seed), store=store, workspace=workspace) for seed in (1, 0)}
    shutil.rmtree(workspace.folder)
    newer = run(config.with_seed(1), store=store, workspace=workspace)
    row = resolve("run:tiny", store)
    assert row.name == "tiny"
    assert newer != made[1]
    assert [manifest.version for manifest in row.versions] == [made[0], max(made[1], newer)]
    assert [m.version for m in resolve(made[1], store).versions] == [made[1]]


def test_versions_of_another_recipe_than_the_newest_are_no_seeds_of_its_row(
    write_run: WriteRun, store: ModelStore, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    old = RunConfig.load(write_run("tiny", "ease", lam="5"))
    for seed in (0, 1, 2):
        run(old.with_seed(seed), store=store, workspace=workspace)
    time.sleep(1.1)  # names tell seconds apart, and versions of one second stand in no order
    new = RunConfig.load(write_run("tiny", "ease", lam="7"))
    made = [run(new.with_seed(seed), store=store, workspace=workspace) for seed in (0, 2)]
    assert [manifest.version for manifest in resolve("run:tiny", store).versions] == made
    assert "of another recipe or other data than the newest version: seed 1" in caplog.text


def test_what_is_not_there_is_refused(version: str, store: ModelStore) -> None:
    with pytest.raises(RunRefused, match="run:none"):
        resolve("run:none", store)
    with pytest.raises(UnknownVersion, match="none"):
        resolve("none", store)


def test_data_that_changed_since_is_refused(version: str, store: ModelStore, tables: Path) -> None:
    manifest = store.manifest(version)
    with (tables / "events.csv").open("a") as out:
        out.write("u0,i5,999999\n")
    with pytest.raises(RunRefused, match="changed since"):
        split_of(manifest)


def test_a_version_that_says_nothing_of_its_data_is_refused(version: str, store: ModelStore) -> None:
    manifest = store.manifest(version)
    silent = manifest.provenance.model_copy(update={"data": {}})
    with pytest.raises(RunRefused, match=rf"{version}.*data"):
        split_of(manifest.model_copy(update={"provenance": silent}))


def test_built_in_data_are_found_by_the_name_that_older_versions_say(version: str, store: ModelStore) -> None:
    manifest = store.manifest(version)
    assert manifest.provenance.data["kind"] == "tables"
    made = {"data": {}, "dataset": "ml-100k", "protocol": "last-10"}
    older = manifest.model_copy(update={"provenance": manifest.provenance.model_copy(update=made)})
    assert data_of(older) == (BUILT_IN["ml-100k"], "last-10")
