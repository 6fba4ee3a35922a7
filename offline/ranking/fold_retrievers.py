"""Retrievers that have not seen the users they retrieve for: one for each fold of users."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch, QueryEncoder
from offline import families
from offline.recipe import Recipe
from offline.splits.sequences import SequenceDataset
from offline.splits.training_split import catalog_of, histories_of


@dataclass(frozen=True, slots=True, eq=False)
class FoldRetriever:
    """users: int64, the rows of this fold's users. encoder, item_vectors_ND: fitted without them. best_epoch: for how
    long, None where the family has no epochs.
    """

    users: npt.NDArray[np.int64]
    encoder: QueryEncoder
    item_vectors_ND: Tensor
    best_epoch: int | None = None

    @torch.inference_mode()
    def best_rows(self, history_T: Tensor, *, depth: int, excluded: Tensor, allowed_N: Tensor) -> Tensor:
        """int64 [up to depth]: the best rows among those allowed and not excluded, ties by row."""
        batch = HistoryBatch.of([history_T]).windowed(self.encoder.max_history, self.encoder.jump)
        scores_N: Tensor = (self.encoder(batch).cpu() @ self.item_vectors_ND.T)[0]
        scores_N = scores_N.masked_fill(~allowed_N, float("-inf"))
        scores_N[excluded.long()] = float("-inf")
        best = scores_N.argsort(descending=True, stable=True)[:depth]
        return best[scores_N[best].isfinite()]


def retriever_recipe(bundle: Bundle) -> Recipe:
    """How that retriever was trained; ValueError unless it was trained by itself."""
    recipe = families.recipe_class(bundle.manifest.family).recorded(bundle.manifest.provenance.recipe)
    if named := recipe.parent_references():
        raise ValueError(
            f"retriever: {bundle.version} was trained with {', '.join(named)} = {', '.join(named.values())}, which has "
            "seen all users; name a retriever that was trained by itself"
        )
    return recipe


def fold_retrievers(
    dataset: SequenceDataset,
    recipe: Recipe,
    *,
    folds: int,
    seed: int,
    checkpoints: Path,
    epochs: Sequence[int | None] | None = None,
) -> Iterator[FoldRetriever]:
    """Each fold is trained in a checkpoint folder of its own: a killed run does not train it again.

    epochs: how long each fold trains, of a twin; None lets validation say. ValueError where one fold would
    leave nobody to learn from.
    """
    users = len(dataset.train)
    if int((dataset.train.lengths > 1).sum()) < 2:
        raise ValueError(
            f"folds = {folds}: candidates are mined for one fold of users by a retriever fitted to the others, and "
            'fewer than two users have two training events: set ranker = "pointwise", or bring more users'
        )
    order = np.random.default_rng(seed).permutation(users)
    for fold, members in enumerate(np.array_split(order, min(folds, users))):
        fitted = recipe if epochs is None else recipe.refitted({"best_epoch": epochs[fold]})
        trained = fitted.train(without_users(dataset, members), checkpoints / f"fold-{fold}", {})
        best = trained.log.get("best_epoch")
        assert best is None or isinstance(best, int)
        yield FoldRetriever(np.sort(members), trained.parts.encoder, trained.parts.item_vectors_ND, best)


def without_users(dataset: SequenceDataset, users: npt.NDArray[np.int64]) -> SequenceDataset:
    """The same items; those users have no history, no validation query, and no share in what is popular."""
    gone = set(users.tolist())
    train = [
        np.empty(0, dtype=np.int32) if user in gone else dataset.train.history(user).numpy()
        for user in range(len(dataset.train))
    ]
    kept = np.flatnonzero(~np.isin(dataset.validation.users, users))
    return replace(
        dataset,
        catalog=catalog_of(dataset.items, train),
        train=histories_of(train),
        validation=dataset.validation.select(kept.tolist()),
    )
