"""What a ranker learns from: next items among candidates that a retriever, blind to the user, would have offered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model_store.encoders.history import HistoryBatch
from offline.ranking.fold_retrievers import FoldRetriever
from offline.splits.sequences import SequenceDataset


@dataclass(frozen=True, slots=True, eq=False)
class MinedTarget:
    """history_T: int32, whole, before the target. hard_C: int64, the retriever's best rows without the target.

    excluded: rows that are never candidates, the target apart.
    """

    history_T: Tensor
    target: int
    hard_C: Tensor
    excluded: Tensor


def mine(
    dataset: SequenceDataset, retrievers: Iterable[FoldRetriever], *, per_user: int, depth: int, seed: int
) -> list[MinedTarget]:
    """Up to `per_user` random targets of each user's training sequence, mined by the retriever of the user's fold.

    Where seen items are excluded from answers, an item chosen again is no target and no seen item a candidate: the
    target then stands nowhere in its own prompt but among the candidates.
    """
    trained_N = torch.from_numpy(dataset.trained_items)
    mined = []
    for retriever in retrievers:
        for user in retriever.users.tolist():
            sequence = dataset.train.history(user)
            for place in _places(sequence, per_user, user=user, seed=seed, repeats=not dataset.exclude_seen):
                history, target = sequence[:place], int(sequence[place])
                excluded = torch.unique(history) if dataset.exclude_seen else history[:0]
                best = retriever.best_rows(history, depth=depth, excluded=excluded, allowed_N=trained_N)
                mined.append(MinedTarget(history, target, best[best != target], excluded))
    return mined


def _places(sequence: Tensor, count: int, *, user: int, seed: int, repeats: bool) -> list[int]:
    rows = sequence.tolist()
    possible = [place for place in range(1, len(rows)) if repeats or rows[place] not in rows[:place]]
    drawn = np.random.default_rng([seed, user]).permutation(len(possible))[:count]
    return sorted(possible[place] for place in drawn)


def draw_prompts(
    mined: list[MinedTarget], *, trained_N: Tensor, window: int, max_history: int, seed: int, epoch: int
) -> HistoryBatch:
    """One epoch: each target among `window` candidates, half of them hard, the others random, in random order.

    Each comes as one row [number of candidates, the target's place, candidates ..., history ...] (see `read_prompt`).
    """
    generator = torch.Generator().manual_seed(seed * 7_919 + epoch)
    items = torch.arange(len(trained_N))
    rows = []
    for each in mined:
        hard = each.hard_C[torch.randperm(len(each.hard_C), generator=generator)[: window // 2]]
        taken = torch.cat((hard, each.excluded.long(), torch.tensor([each.target])))
        pool = items[trained_N & ~torch.isin(items, taken)]
        others = pool[torch.randperm(len(pool), generator=generator)[: window - 1 - len(hard)]]
        candidates = torch.cat((torch.tensor([each.target]), hard, others))
        order = torch.randperm(len(candidates), generator=generator)
        place = int((order == 0).nonzero())
        head = torch.tensor([len(candidates), place])
        rows.append(torch.cat((head, candidates[order], each.history_T[-max_history:].long())))
    return HistoryBatch.of(rows)


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    history_T: Tensor
    candidates_K: Tensor
    place: int


def read_prompt(row: Tensor) -> Prompt:
    """The inverse of what `draw_prompts` writes."""
    count, place = int(row[0]), int(row[1])
    return Prompt(row[2 + count :], row[2 : 2 + count].long(), place)
