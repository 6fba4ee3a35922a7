from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.encoders.sequence import SequenceEncoder
from model_store.staging import BundleParts
from offline.datasets import Interactions
from offline.families import sasrec
from offline.gating.out_of_fold import OutOfFold, fit_out_of_fold, user_folds
from offline.splits.protocols import split
from offline.splits.sequences import SequenceDataset
from offline.training.loop import FitPlan
from offline.training.objectives import NextItem
from offline.training.windows import training_windows

PLAN = FitPlan(epochs=2, evaluate_every=1, batch=16)


@pytest.fixture
def dataset(small_world: Interactions) -> SequenceDataset:
    return split(small_world, "last-10").dataset


@pytest.fixture
def start(dataset: SequenceDataset, tmp_path: Path, open_bundle: Callable[[BundleParts], Bundle]) -> Bundle:
    recipe = sasrec.Recipe(dim=8, max_history=16, fit=PLAN)
    return open_bundle(recipe.train(dataset, tmp_path / "sasrec", {}).parts)


def test_every_user_is_in_one_fold_of_even_size() -> None:
    fold_U = user_folds(23, folds=5, seed=3)
    assert sorted(torch.bincount(fold_U).tolist()) == [4, 4, 5, 5, 5]
    assert torch.equal(fold_U, user_folds(23, folds=5, seed=3))
    assert not torch.equal(fold_U, user_folds(23, folds=5, seed=4))


def _weights(fitted: OutOfFold, fold: int) -> dict[str, torch.Tensor]:
    return dict(fitted._encoders[fold].state_dict())


def test_a_fold_s_encoder_does_not_depend_on_its_users(dataset: SequenceDataset, start: Bundle, tmp_path: Path) -> None:
    fitted = fit_out_of_fold(start, dataset, plan=PLAN, checkpoints=tmp_path / "a", seed=0, folds=3)
    fold = int(user_folds(len(dataset.train), folds=3, seed=0)[7])
    sequences = [dataset.train.history(b) for b in range(len(dataset.train))]
    sequences[7] = sequences[7].flip(0)
    changed = dataclasses.replace(dataset, train=HistoryBatch.of(sequences))
    again = fit_out_of_fold(start, changed, plan=PLAN, checkpoints=tmp_path / "b", seed=0, folds=3)
    for other in range(3):
        before, after = _weights(fitted, other), _weights(again, other)
        same = all(torch.equal(before[name], after[name]) for name in before)
        assert same == (other == fold)
        assert isinstance(start.encoder, SequenceEncoder)
        assert torch.equal(before["items.weight"], start.encoder.items.weight)


def test_what_is_fitted_is_found_again(
    dataset: SequenceDataset, start: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fit_out_of_fold(start, dataset, plan=PLAN, checkpoints=tmp_path / "run", seed=0, folds=2)

    def fail(self: NextItem, windows: HistoryBatch) -> torch.Tensor:
        raise AssertionError("trained again")

    monkeypatch.setattr(NextItem, "forward", fail)
    second = fit_out_of_fold(start, dataset, plan=PLAN, checkpoints=tmp_path / "run", seed=0, folds=2)
    for fold in range(2):
        ours, theirs = _weights(first, fold), _weights(second, fold)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_states_need_to_know_their_users(dataset: SequenceDataset, start: Bundle, tmp_path: Path) -> None:
    fitted = fit_out_of_fold(start, dataset, plan=PLAN, checkpoints=tmp_path, seed=0, folds=2)
    windows = training_windows(dataset.train, 15).select(range(4))
    assert fitted.read(windows).vectors_XD.shape == (len(windows.rows), 8)
    with pytest.raises(AssertionError, match="know their users"):
        fitted.positions(HistoryBatch(windows.rows, windows.offsets))


def test_fewer_users_than_folds_are_refused(dataset: SequenceDataset, start: Bundle, tmp_path: Path) -> None:
    few = dataclasses.replace(dataset, train=dataset.train.select(range(4)))
    with pytest.raises(ValueError, match="out_of_fold = true needs at least 5 users, not 4"):
        fit_out_of_fold(start, few, plan=PLAN, checkpoints=tmp_path, seed=0)
