from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from model_store.store import ModelStore
from offline.datasets import DataRefused
from offline.run_config import RunConfig, RunRefused
from offline.tuning import Trial, draw, tune
from offline.workspace import Workspace

WriteRun = Callable[..., Path]
TUNE = '\n[tune]\n"lam" = [1, 5, 50]\n"tau" = [2, 10]\n'


@pytest.fixture
def config(write_run: WriteRun) -> RunConfig:
    return RunConfig.load(write_run("tiny", "ease", lam="5", more=TUNE))


def _forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def pool(*_: object, **__: object) -> None:
        raise AssertionError("a finished trial was run again")

    monkeypatch.setattr(ProcessPoolExecutor, "submit", pool)


def test_draws_are_distinct_reproducible_and_begin_with_the_file(config: RunConfig) -> None:
    drawn = draw(config, 4)
    assert drawn == draw(config, 4)
    assert drawn[0] == {}
    assert all(set(changes) == {"lam", "tau"} for changes in drawn[1:])
    assert len({config.varied(changes).recipe.model_dump_json() for changes in drawn}) == 4
    assert draw(config, 6)[:4] == drawn


def test_draws_end_where_the_values_do(config: RunConfig) -> None:
    # Six pairs, one of which is the file as it stands.
    drawn = draw(config, 50)
    assert len(drawn) == 6
    assert {"lam": 5, "tau": 10} not in drawn


def test_without_values_there_is_nothing_to_draw(write_run: WriteRun, store: ModelStore, workspace: Workspace) -> None:
    config = RunConfig.load(write_run("tiny", "ease"))
    with pytest.raises(RunRefused, match=r"tiny.*\[tune\]"):
        tune(config, trials=3, jobs=1, store=store, workspace=workspace)


def test_two_processes_run_the_trials_and_nobody_runs_them_again(
    config: RunConfig, write_run: WriteRun, store: ModelStore, *, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = tune(config, trials=4, jobs=2, store=store, workspace=workspace)
    assert sorted(trial.number for trial in trials) == [0, 1, 2, 3]
    assert [trial.changes for trial in sorted(trials, key=lambda t: t.number)] == draw(config, 4)
    figures = [trial.ndcg10 for trial in trials]
    assert figures == sorted(figures, reverse=True)
    assert 0 < figures[-1] < figures[0] <= 1
    assert {trial.epochs for trial in trials} == {0}
    assert store.list_names() == []
    with monkeypatch.context() as patch:
        _forbid(patch)
        assert tune(config, trials=4, jobs=2, store=store, workspace=workspace) == trials
        # More [tune] values or another recipe are other trials.
        other = RunConfig.load(write_run("tiny", "ease", lam="50", more=TUNE))
        with pytest.raises(AssertionError, match="again"):
            tune(other, trials=4, jobs=2, store=store, workspace=workspace)


def test_only_what_is_missing_is_run(config: RunConfig, store: ModelStore, workspace: Workspace) -> None:
    tune(config, trials=1, jobs=1, store=store, workspace=workspace)
    (file,) = (workspace.folder / "tuning").iterdir()
    (first,) = file.read_text().splitlines()
    known = Trial(1, draw(config, 2)[1], ndcg10=2.0, epochs=7, seconds=1.0)
    file.write_text(f"{first}\n{json.dumps({name: getattr(known, name) for name in Trial.__slots__})}\n")
    trials = tune(config, trials=2, jobs=1, store=store, workspace=workspace)
    assert trials[0] == known
    assert json.loads(first)["ndcg10"] == trials[1].ndcg10
    assert len(file.read_text().splitlines()) == 2


def test_a_trial_that_fails_ends_the_search(write_run: WriteRun, store: ModelStore, workspace: Workspace) -> None:
    config = RunConfig.load(
        write_run("lm", "e4srec", items_from='"run:none"', history_input='"id"', more='\n[tune]\n"dropout" = [0.1]\n')
    )
    with pytest.raises(RunRefused, match="run:none"):
        tune(config, trials=2, jobs=1, store=store, workspace=workspace)


def test_a_trial_that_diverges_is_the_worst_and_ends_nothing(
    write_run: WriteRun, store: ModelStore, workspace: Workspace
) -> None:
    more = '\n[tune]\n"fit.learning_rate" = [1e30]\n'
    config = RunConfig.load(write_run("diverging", "sasrec", more=more))
    trials = tune(config, trials=2, jobs=1, store=store, workspace=workspace)
    assert [trial.number for trial in trials] == [0, 1]
    assert trials[0].ndcg10 > trials[1].ndcg10 == 0


def test_a_refusal_passes_from_process_to_process() -> None:
    refusal = DataRefused("events.csv", "'user_id' is empty", cure="fill the id in", row=7)
    passed = pickle.loads(pickle.dumps(refusal))
    assert isinstance(passed, DataRefused)
    assert str(passed) == str(refusal)
    assert (passed.file, passed.row, passed.cure) == ("events.csv", 7, "fill the id in")
