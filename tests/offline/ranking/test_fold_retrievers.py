from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.encoders.sequence import SequenceConfig
from offline.datasets import Interactions
from offline.families import sasrec
from offline.ranking.fold_retrievers import FoldRetriever, fold_retrievers, retriever_recipe, without_users
from offline.splits.protocols import split
from offline.splits.sequences import SequenceDataset
from offline.training.loop import FitPlan

QUICK = sasrec.Recipe(dim=8, max_history=16, fit=FitPlan(epochs=1, evaluate_every=1, batch=16))


@pytest.fixture(scope="module")
def dataset(small_world: Interactions) -> SequenceDataset:
    return split(small_world, "last-10").dataset


def test_nothing_of_the_fold_s_users_is_left(dataset: SequenceDataset) -> None:
    left = without_users(dataset, np.array([0, 3, 59]))
    for user in range(60):
        kept = [] if user in (0, 3, 59) else dataset.train.history(user).tolist()
        assert left.train.history(user).tolist() == kept
    assert set(left.validation.users.tolist()) == set(dataset.validation.users.tolist()) - {0, 3, 59}
    for place, user in enumerate(left.validation.users.tolist()):
        assert left.validation.histories.history(place).tolist() == dataset.train.history(user).tolist()
    counted = np.bincount(left.train.rows.numpy(), minlength=40)
    assert left.catalog.popularity.tolist() == counted.tolist()


def test_every_user_is_in_one_fold_and_a_trained_fold_is_not_trained_again(
    dataset: SequenceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[SequenceDataset] = []
    original = sasrec.Recipe.train

    def spying(self: sasrec.Recipe, dataset: SequenceDataset, *rest: object) -> object:
        seen.append(dataset)
        return original(self, dataset, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(sasrec.Recipe, "train", spying)
    folds = list(fold_retrievers(dataset, QUICK, folds=3, seed=0, checkpoints=tmp_path))
    assert sorted(np.concatenate([fold.users for fold in folds]).tolist()) == list(range(60))
    for fold, fitted_to in zip(folds, seen, strict=True):
        assert int(fitted_to.train.lengths[fold.users].sum()) == 0
    started = [file.stat().st_mtime_ns for file in sorted(tmp_path.rglob("*.safetensors"))]
    again = list(fold_retrievers(dataset, QUICK, folds=3, seed=0, checkpoints=tmp_path))
    assert [file.stat().st_mtime_ns for file in sorted(tmp_path.rglob("*.safetensors"))] == started
    assert len(started) >= 3
    for one, other in zip(folds, again, strict=True):
        assert torch.equal(one.item_vectors_ND, other.item_vectors_ND)


def test_best_rows_are_the_allowed_ones_by_score(dataset: SequenceDataset) -> None:
    made = SequenceConfig(items=40, dim=8, blocks=1, heads=2, max_history=16, jump=4).build().eval()
    torch.manual_seed(0)
    vectors_ND = torch.randn(40, 8)
    retriever = FoldRetriever(np.array([0]), made, vectors_ND)
    allowed_N = torch.arange(40) % 2 == 0
    best = retriever.best_rows(torch.tensor([1, 2]), depth=7, excluded=torch.tensor([4, 6]), allowed_N=allowed_N)
    with torch.inference_mode():
        scores_N = (made(HistoryBatch.of([[1, 2]])) @ vectors_ND.T)[0]
    ranked = [row for row in scores_N.argsort(descending=True).tolist() if row % 2 == 0 and row not in (4, 6)]
    assert best.tolist() == ranked[:7]
    assert len(retriever.best_rows(torch.tensor([1]), depth=99, excluded=torch.tensor([4]), allowed_N=allowed_N)) == 19


def test_a_retriever_that_was_taught_is_refused(
    dataset: SequenceDataset, tmp_path: Path, open_bundle: Callable[..., Bundle]
) -> None:
    parts = QUICK.train(dataset, tmp_path / "s", {}).parts
    recipe = QUICK.model_dump(mode="json")
    assert retriever_recipe(open_bundle(parts, recipe)) == QUICK
    with pytest.raises(ValueError, match="teacher = v"):
        retriever_recipe(open_bundle(parts, recipe | {"teacher": "v"}))
