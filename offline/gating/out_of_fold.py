"""SASRecs that have not seen the users they speak of: honest states for what learns on top of them.

A SASRec has fitted the positions that a second model trains on: there it is better than it will ever be again, and what
is learnt beside it is to lean on it too much (stacking's remedy: Wolpert, 1992, "Stacked Generalization").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.encoders.sequence import SequenceEncoder
from offline.evaluation.validation import Validation
from offline.splits.sequences import Queries, SequenceDataset
from offline.teaching.distillation import Read
from offline.training.initial_weights import initialise
from offline.training.loop import FitPlan, fit
from offline.training.objectives import NextItem
from offline.training.windows import UserWindows, training_windows

FOLDS = 5


class InFold:
    """The version itself, in eval mode: quick, and it has seen everything."""

    def __init__(self, encoder: SequenceEncoder, items_ND: Tensor) -> None:
        self._encoder = encoder
        self.items_ND = items_ND

    @torch.no_grad()
    def positions(self, inputs: HistoryBatch) -> Tensor:
        """float32 [T, D]: the state after every item."""
        return self._encoder.forward_positions(inputs)

    def to(self, device: torch.device) -> None:
        self._encoder.to(device)

    def read(self, inputs: HistoryBatch) -> Read:
        return Read(torch.arange(len(inputs.rows)), self.positions(inputs))


class OutOfFold:
    """encoders: one per fold, fitted without it. fold_U: int64, the fold of every user."""

    def __init__(self, encoders: Sequence[SequenceEncoder], fold_U: Tensor, items_ND: Tensor) -> None:
        self._encoders = encoders
        self._fold_U = fold_U
        self.items_ND = items_ND

    @torch.no_grad()
    def positions(self, inputs: HistoryBatch) -> Tensor:
        """float32 [T, D]: the state after every item, of the encoder that has not seen its user."""
        assert isinstance(inputs, UserWindows), "only windows that know their users can be read out of fold"
        fold_B = self._fold_U[inputs.users]
        fold_T = torch.repeat_interleave(fold_B, inputs.lengths)
        states_TD = torch.empty(len(inputs.rows), self.items_ND.shape[1])
        for fold in torch.unique(fold_B).tolist():
            theirs = inputs.select((fold_B == fold).nonzero().flatten().tolist())
            states_TD[fold_T == fold] = self._encoders[fold].forward_positions(theirs).cpu()
        return states_TD

    def to(self, device: torch.device) -> None:
        for encoder in self._encoders:
            encoder.to(device)

    def read(self, inputs: HistoryBatch) -> Read:
        return Read(torch.arange(len(inputs.rows)), self.positions(inputs))


def user_folds(users: int, *, folds: int, seed: int) -> Tensor:
    """int64 [U]: a random fold for every user, all of one size."""
    return torch.randperm(users, generator=torch.Generator().manual_seed(seed)) % folds


def fit_out_of_fold(
    start: Bundle, dataset: SequenceDataset, *, plan: FitPlan, checkpoints: Path, seed: int, folds: int = FOLDS
) -> OutOfFold:
    """Encoders like `start`'s and over its item matrix, which stays as it is, each fitted without a fold of the users.

    Finished folds are found again in `checkpoints`. ValueError where there are fewer users than folds.
    """
    if len(dataset.train) < folds:
        raise ValueError(
            f"out_of_fold = true needs at least {folds} users, not {len(dataset.train)}: set out_of_fold = false"
        )
    fold_U = user_folds(len(dataset.train), folds=folds, seed=seed)
    encoders = [
        _fitted_without(fold_U == fold, start, dataset, plan=plan, checkpoints=checkpoints, seed=seed, fold=fold)
        for fold in range(folds)
    ]
    return OutOfFold(encoders, fold_U, torch.from_numpy(start.index.vectors_ND))


def _fitted_without(
    left_U: Tensor, start: Bundle, dataset: SequenceDataset, *, plan: FitPlan, checkpoints: Path, seed: int, fold: int
) -> SequenceEncoder:
    assert isinstance(start.encoder, SequenceEncoder)
    torch.manual_seed(seed * 1_009 + fold)
    encoder = start.encoder.config.build()
    encoder.apply(initialise)
    encoder.items.load_state_dict(start.encoder.items.state_dict())
    encoder.items.requires_grad_(False)
    seen = (~left_U).nonzero().flatten()
    validation = Validation.of(replace(dataset, validation=_of_users(dataset.validation, seen)))
    fit(
        NextItem(encoder, cold_N=dataset.cold_items),
        training_windows(dataset.train.select(seen.tolist()), encoder.max_history),
        plan=plan,
        validate=lambda: validation.ndcg10(encoder, encoder.item_vectors_ND),
        checkpoints=checkpoints,
        seed=seed,
        stage=f"fold-{fold}",
    )
    return encoder.cpu().eval().requires_grad_(False)


def _of_users(queries: Queries, users: Tensor) -> Queries:
    chosen = torch.isin(torch.from_numpy(queries.users), users).nonzero().flatten().tolist()
    return queries.select(chosen)
