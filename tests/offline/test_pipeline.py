from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from model_store.bundle import Bundle
from model_store.retrieval import Want
from model_store.store import ModelStore
from offline import datasets
from offline.datasets import DataConfig
from offline.evaluation import full_ranking as evaluation
from offline.evaluation.full_ranking import evaluate
from offline.families import ease, sasrec
from offline.pipeline import open_parents, run
from offline.recipe import TrainedModel
from offline.run_config import RunConfig, RunRefused
from offline.splits.protocols import split
from offline.workspace import Workspace

WriteRun = Callable[..., Path]
ROOT = Path(__file__).parents[2]
# `--cpu --num_processes 2` would start one process, unless mpirun starts more; this way two of them meet by gloo.
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]


def _forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: object) -> TrainedModel:
        raise AssertionError("trained again")

    for family in (ease, sasrec):
        monkeypatch.setattr(family.Recipe, "train", train)


def _staged(store: ModelStore) -> list[str]:
    area = store.root / ".staging"
    return [path.name for path in area.iterdir()] if area.exists() else []


def test_what_is_published_says_where_it_comes_from_and_how_good_it_is(
    write_run: WriteRun, store: ModelStore, workspace: Workspace
) -> None:
    config = RunConfig.load(write_run("tiny", "sasrec", seed="3"))
    version = run(config, store=store, workspace=workspace)
    bundle = store.open(version)
    data = split(datasets.load(config.data), "last-10")
    made = bundle.manifest.provenance
    assert (made.run, made.seed, made.protocol, made.parents) == ("tiny", 3, "last-10", {})
    assert made.recipe == config.recipe.model_dump(mode="json")
    assert datasets.load(TypeAdapter(DataConfig).validate_python(made.data)).fingerprint == data.dataset.fingerprint
    assert made.split_fingerprint == data.dataset.split_fingerprint
    assert made.dataset_fingerprint == data.dataset.fingerprint
    assert made.packages["torch"] == torch.__version__
    metrics = {metric.name: metric for metric in bundle.manifest.metrics}
    ndcg = metrics["ndcg@10"]
    assert {(m.subset, m.seen_removed, m.events) for m in metrics.values()} == {("validation", True, 24)}
    assert ndcg.low is not None
    assert ndcg.high is not None
    assert ndcg.low < ndcg.value < ndcg.high
    measured = evaluate(bundle, data.dataset.validation, seen_removed=True).values("ndcg@10").mean()
    assert ndcg.value == pytest.approx(float(measured), abs=1e-12)
    assert _staged(store) == []


def test_a_second_run_is_the_first_one(
    write_run: WriteRun, store: ModelStore, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_run("tiny", "ease", lam="5")
    version = run(RunConfig.load(file), store=store, workspace=workspace)
    with monkeypatch.context() as patch:
        _forbid_training(patch)
        assert run(RunConfig.load(file), store=store, workspace=workspace) == version
    assert store.list_names() == [version]
    other = run(RunConfig.load(write_run("tiny", "ease", lam="6")), store=store, workspace=workspace)
    assert store.list_names() == sorted([version, other])


def test_a_version_that_is_gone_is_made_again(write_run: WriteRun, store: ModelStore, workspace: Workspace) -> None:
    config = RunConfig.load(write_run("tiny", "ease", lam="5"))
    first = run(config, store=store, workspace=workspace)
    (store.root / first).rename(store.root.parent / "gone")
    assert run(config, store=store, workspace=workspace) in store.list_names()


# Kills itself with -9: in the middle of training, or between the staging of a bundle and its publication.
KILLED = """
import os, signal, sys
from pathlib import Path
import offline.pipeline
from model_store.store import ModelStore
from offline.run_config import RunConfig
from offline.evaluation.validation import Validation
from offline.workspace import Workspace

file, folder, place = sys.argv[1:]
original, looks = Validation.ndcg10, []

def ndcg10(*arguments, **more):
    looks.append(1)
    if place == "training" and len(looks) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **more)

def load(*_):
    os.kill(os.getpid(), signal.SIGKILL)

Validation.ndcg10 = ndcg10
offline.pipeline.Bundle.load = load
offline.pipeline.run(
    RunConfig.load(Path(file)), store=ModelStore(Path(folder) / "store"), workspace=Workspace(Path(folder) / "cache")
)
"""


@pytest.mark.parametrize("place", ["training", "staging"])
def test_a_killed_run_leaves_nothing_visible_and_resumes(
    place: str,
    write_run: WriteRun,
    store: ModelStore,
    *,
    workspace: Workspace,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = write_run("tiny", "sasrec")
    killed = subprocess.run([sys.executable, "-c", KILLED, file, tmp_path, place], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert store.list_names() == []
    assert len(_staged(store)) == (1 if place == "staging" else 0)
    with caplog.at_level("INFO"):
        version = run(RunConfig.load(file), store=store, workspace=workspace)
    assert f"resumes after epoch {1 if place == 'training' else 3}" in caplog.text
    assert store.list_names() == [version]
    store.verify(version)
    (published,) = (workspace.folder / "runs").glob("tiny-*/published.json")
    kept = json.loads(published.read_text())
    assert kept["version"] == version
    assert [point["epoch"] for point in kept["log"]["curve"]] == [1, 2, 3]
    assert list(published.parent.glob("checkpoint-*")) == []


@pytest.mark.parametrize("part", ["stage", "measure"])
def test_a_bundle_that_fails_leaves_nothing(
    part: str, write_run: WriteRun, store: ModelStore, *, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Bundle, __: object, **___: object) -> None:
        raise ValueError("cannot be measured")

    config = RunConfig.load(write_run("tiny", "ease", lam="5"))
    if part == "measure":
        monkeypatch.setattr(evaluation, "evaluate", broken)
    else:
        original = ease.Recipe.train

        def train(*arguments: object) -> TrainedModel:
            trained = original(*arguments)  # type: ignore[arg-type]
            trained.parts.item_vectors_ND[0, 0] = float("nan")
            return trained

        monkeypatch.setattr(ease.Recipe, "train", train)
    with pytest.raises(ValueError, match="cannot be measured" if part == "measure" else "finite"):
        run(config, store=store, workspace=workspace)
    assert store.list_names() == []
    assert _staged(store) == []


@pytest.fixture
def e4srec(write_run: WriteRun) -> Callable[..., RunConfig]:
    def load(items_from: str, **changes: str) -> RunConfig:
        return RunConfig.load(write_run("lm", "e4srec", items_from=f'"{items_from}"', history_input='"id"', **changes))

    return load


def test_a_parent_is_the_run_of_the_same_seed_else_the_newest(
    write_run: WriteRun, store: ModelStore, workspace: Workspace, e4srec: Callable[..., RunConfig]
) -> None:
    start = RunConfig.load(write_run("start", "ease", lam="5"))
    made = [run(start.with_seed(seed), store=store, workspace=workspace) for seed in (0, 1, 2)]
    fingerprint = store.manifest(made[0]).provenance.split_fingerprint
    for reference, seed, expected in (
        ("run:start", 1, made[1]),
        ("run:start", 7, max(made)),
        (made[0], 1, made[0]),
    ):
        recipe = e4srec(reference, seed=str(seed)).recipe
        parents = open_parents(recipe, store=store, split_fingerprint=fingerprint)
        assert {role: bundle.version for role, bundle in parents.items()} == {"items_from": expected}


def test_a_parent_goes_into_the_child(
    write_run: WriteRun, store: ModelStore, workspace: Workspace, e4srec: Callable[..., RunConfig]
) -> None:
    parent = run(RunConfig.load(write_run("start", "sasrec")), store=store, workspace=workspace)
    child = store.open(run(e4srec("run:start"), store=store, workspace=workspace))
    assert child.manifest.provenance.parents == {"items_from": parent}
    assert child.manifest.dim == store.manifest(parent).dim
    assert child.manifest.base is not None
    data = split(datasets.load(e4srec("run:start").data), "last-10")
    assert len(child.retrieve(data.test.histories.select([0]), [Want(k=5)])[0].rows) == 5


def test_a_parent_that_is_missing_or_of_another_split_is_refused(
    write_run: WriteRun, store: ModelStore, workspace: Workspace, e4srec: Callable[..., RunConfig]
) -> None:
    with pytest.raises(RunRefused, match=r"run:start.*published nothing"):
        run(e4srec("run:start"), store=store, workspace=workspace)
    other = run(
        RunConfig.load(write_run("start", "ease", protocol="leave-one-out", lam="5")), store=store, workspace=workspace
    )
    with pytest.raises(RunRefused, match=r"run:start.*published nothing on this split"):
        run(e4srec("run:start"), store=store, workspace=workspace)
    config = e4srec(other)
    with pytest.raises(RunRefused, match="another split") as refused:
        run(config, store=store, workspace=workspace)
    theirs = store.manifest(other).provenance.split_fingerprint
    ours = split(datasets.load(config.data), "last-10").dataset.split_fingerprint
    assert theirs != ours
    for named in ("recipe.items_from", other, theirs, ours):
        assert named in str(refused.value)


@pytest.mark.slow
def test_two_processes_train_together_and_one_publishes(write_run: WriteRun, tmp_path: Path) -> None:
    file = write_run("tiny", "sasrec")
    settings = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "NAISEKI_STORE": str(tmp_path / "store")}
    done = subprocess.run(
        [*LAUNCH, "--main_process_port=0", "-m", "offline", "run", str(file), "--activate"],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    store = ModelStore(tmp_path / "store")
    (version,) = store.list_names()
    store.verify(version)
    assert done.stdout.count("published") == 1
    assert store.labels().live == version
    assert _staged(store) == []
    (published,) = (tmp_path / "cache/runs").glob("tiny-*/published.json")
    log = json.loads(published.read_text())["log"]
    assert log["epochs"] == 3
    whole = sum(len(history) - 1 for history in _training_histories(file))
    # Each process takes half of the windows of every batch.
    assert 0.25 * 3 * whole < log["curve"][-1]["targets"] < 0.75 * 3 * whole


def _training_histories(file: Path) -> list[torch.Tensor]:
    train = split(datasets.load(RunConfig.load(file).data), "last-10").dataset.train
    return [train.history(user) for user in range(len(train))]
