"""Looks at a model in training: the withheld users' reciprocal ranks at given numbers of targets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from model_store.encoders.history import QueryEncoder
from offline.claims.probe_runs import ProbeRun
from offline.evaluation.full_ranking import encoded
from offline.evaluation.metrics import Floats
from offline.splits.sequences import Queries
from offline.training.objectives import Objective

TOGETHER = 512


@runtime_checkable
class Encodes(Protocol):
    """An objective that can be asked in the middle of training."""

    encoder: QueryEncoder

    def refresh(self) -> Tensor:
        """Makes the encoder encode as it would be served; returns the item vectors [N, D] that it is matched with."""


class Looks:
    """Filled while a model trains; `record` says what was seen."""

    def __init__(self, at: Sequence[int], queries: Queries, *, exclude_seen: bool) -> None:
        self._at, self._queries, self._exclude_seen = list(at), queries, exclude_seen
        self._losses: list[float] = []
        self._seconds: list[float] = []
        self._found: list[Floats] = []
        self._looking, self._began = 0.0, time.process_time()

    def after_step(self, objective: Objective, *, targets: int, loss: float) -> None:
        if not self._losses:
            # What the first step cost is not known any more; making the model is not part of training.
            self._began = time.process_time()
        self._losses.append(round(loss, 4))
        if len(self._found) == len(self._at) or targets < self._at[len(self._found)]:
            return
        started = time.process_time()
        seconds = started - self._began - self._looking
        ranks_Q = self._look(objective)
        self._looking += time.process_time() - started
        while len(self._found) < len(self._at) and targets >= self._at[len(self._found)]:
            self._found.append(ranks_Q)
            self._seconds.append(round(seconds, 2))

    def _look(self, objective: Objective) -> Floats:
        if not isinstance(objective, Encodes):
            raise TypeError(f"{type(objective).__name__} has no `encoder` and `refresh()` to look at it in training")
        was_training = objective.training
        objective.eval()
        # Not inference mode: what an item tower keeps from here is trained against.
        with torch.random.fork_rng():
            found = reciprocal_ranks(
                objective.encoder, objective.refresh(), queries=self._queries, exclude_seen=self._exclude_seen
            )
        objective.train(was_training)
        return found

    def record(self, arm: str, *, learning_rate: float | None, seed: int, diverged: bool) -> ProbeRun:
        """Where a training diverged, the looks that are left found nothing. ValueError when one ended before its last
        look: its targets were not those of one per step of a history.
        """
        if not diverged and len(self._found) < len(self._at):
            raise ValueError(f"{arm}: the training ended before {self._at[-1]} targets")
        nothing = np.zeros(len(self._queries))
        found = [*self._found, *(nothing for _ in self._at[len(self._found) :])]
        seconds = [*self._seconds, *(self._seconds[-1:] or [0.0]) * (len(self._at) - len(self._seconds))]
        mean_Q, last_Q = np.mean(found, axis=0), found[-1]
        users, user_Q = np.unique(self._queries.users, return_inverse=True)
        of_users = [np.bincount(user_Q, weights=values, minlength=len(users)) for values in (mean_Q, last_Q)]
        events = np.bincount(user_Q)
        return ProbeRun(
            arm=arm,
            learning_rate=learning_rate,
            seed=seed,
            targets=self._at,
            mrr=[round(float(values.mean()), 6) for values in found],
            cpu_seconds=seconds,
            users=[(int(n), round(float(m), 5), round(float(f), 5)) for n, m, f in zip(events, *of_users, strict=True)],
            losses=[loss if np.isfinite(loss) else 1e9 for loss in self._losses],
            diverged=diverged,
        )


@torch.no_grad()
def reciprocal_ranks(encoder: QueryEncoder, item_vectors_ND: Tensor, *, queries: Queries, exclude_seen: bool) -> Floats:
    """float64[Q]: 1 / rank over the whole catalogue, ties by row; 0 for a target that is removed as seen."""
    vectors_QD, items_ND = encoded(encoder, queries, name="probe"), item_vectors_ND.float().cpu()
    targets_Q = torch.from_numpy(queries.targets).long()
    found = torch.zeros(len(queries))
    for start in range(0, len(queries), TOGETHER):
        part = range(start, min(start + TOGETHER, len(queries)))
        scores_BN, target_B1 = vectors_QD[start : part.stop] @ items_ND.T, targets_Q[start : part.stop, None]
        score_B1 = scores_BN.gather(1, target_B1)
        if exclude_seen:
            seen = queries.seen_items.select(part)
            owners = torch.repeat_interleave(torch.arange(len(seen)), seen.lengths)
            scores_BN[owners, seen.rows.long()] = float("-inf")
        ahead_BN = (scores_BN > score_B1) | ((scores_BN == score_B1) & (torch.arange(len(items_ND)) < target_B1))
        kept_B = scores_BN.gather(1, target_B1).squeeze(1).isfinite()
        found[start : part.stop] = torch.where(kept_B, 1 / (1 + ahead_BN.sum(1)), 0.0)
    return found.numpy().astype(np.float64)
