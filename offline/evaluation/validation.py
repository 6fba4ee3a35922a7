"""NDCG@10 of an encoder in memory, for choices made during training. Published figures never come from here."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_store.encoders.history import HistoryBatch, QueryEncoder
from offline.splits.sequences import Queries, SequenceDataset

MOST_USERS = 2_000


class Validation:
    """At most 2,000 fixed validation queries (drawn once, by a constant seed), full ranking, ties by row.

    cold_N: bool[N], items that are not ranked (`SequenceDataset.cold_items`): nothing about them may be chosen on.
    """

    def __init__(self, queries: Queries, *, exclude_seen: bool, cold_N: npt.NDArray[np.bool_] | None = None) -> None:
        keep = torch.arange(len(queries))
        if len(queries) > MOST_USERS:
            keep = torch.randperm(len(queries), generator=torch.Generator().manual_seed(0))[:MOST_USERS].sort().values
        self.histories = queries.histories.select(keep.tolist())
        self.seen = self.histories if queries.seen is None else queries.seen.select(keep.tolist())
        self.targets = torch.as_tensor(queries.targets)[keep].long()
        self.queries = Queries(self.histories, queries.targets[keep.numpy()], queries.users[keep.numpy()])
        self.weights = None if queries.weights is None else torch.as_tensor(queries.weights)[keep]
        self.exclude_seen = exclude_seen
        self.cold_N = torch.as_tensor(cold_N) if cold_N is not None and cold_N.any() else None

    @classmethod
    def of(cls, dataset: SequenceDataset) -> Validation:
        return cls(dataset.validation, exclude_seen=dataset.exclude_seen, cold_N=dataset.cold_items)

    @torch.inference_mode()
    def ndcg10(self, encoder: QueryEncoder, item_vectors_ND: Tensor, *, chunk: int = 256) -> float:
        """(Weighted) mean over the queries; item_vectors_ND is what the query vectors are matched with."""
        was_training = encoder.training
        encoder.eval()
        total = 0.0
        # Chunks of like length: an encoder that pads pads little.
        order = self.histories.lengths.argsort(stable=True)
        for start in range(0, len(order), chunk):
            part = order[start : start + chunk]
            whole = self.histories.select(part.tolist())
            vectors_BD = encoder(whole.windowed(encoder.max_history, encoder.jump))
            scores_BN = (vectors_BD @ item_vectors_ND.T).float()
            seen = self.seen.select(part.tolist())
            gains_B = self._gains(scores_BN, seen, self.targets[part].to(scores_BN.device))
            total += float(gains_B.sum() if self.weights is None else gains_B.cpu().double() @ self.weights[part])
        encoder.train(was_training)
        return total / max(len(order) if self.weights is None else float(self.weights.sum()), 1)

    def ndcg_of_scores(self, scores_QN: Tensor, *, cut: int | None = 10) -> float:
        """The same figure of scores float32 [Q, N], a row for each of `queries`; they are written into.

        cut: the last rank that counts; None: all do.
        """
        gains_Q = self._gains(scores_QN, self.seen, self.targets, cut=cut)
        weights_Q = torch.ones(len(gains_Q)) if self.weights is None else self.weights
        return float(gains_Q.double() @ weights_Q.double() / weights_Q.sum())

    def open_scores(self, scores_QN: Tensor) -> Tensor:
        """A copy, with -inf at what may not be found: cold items, and seen ones where they are removed."""
        found_QN = scores_QN.clone()
        self._close(found_QN, self.seen)
        return found_QN

    def _close(self, scores_BN: Tensor, seen: HistoryBatch) -> None:
        if self.exclude_seen:
            users = torch.repeat_interleave(torch.arange(len(seen)), seen.lengths)
            scores_BN[users, seen.rows.long()] = float("-inf")
        if self.cold_N is not None:
            scores_BN[:, self.cold_N] = float("-inf")

    def gains_of_scores(self, scores_XN: Tensor, chosen_X: Tensor) -> Tensor:
        """float32 [X]: of the queries chosen_X, each one's share of NDCG@10; scores float32 [X, N] are written into."""
        return self._gains(scores_XN, self.seen.select(chosen_X.tolist()), self.targets[chosen_X])

    def _gains(self, scores_BN: Tensor, seen: HistoryBatch, targets_B: Tensor, *, cut: int | None = 10) -> Tensor:
        target_B1 = scores_BN.gather(1, targets_B[:, None])
        self._close(scores_BN, seen)
        rows_N = torch.arange(scores_BN.shape[1], device=scores_BN.device)
        ahead_BN = (scores_BN > target_B1) | ((scores_BN == target_B1) & (rows_N < targets_B[:, None]))
        rank_B = 1 + ahead_BN.sum(1)
        # Removed as seen, or no number: NaN is below nothing, and would else come first.
        scored_B = scores_BN.gather(1, targets_B[:, None]).squeeze(1).isfinite()
        counted_B = scored_B if cut is None else scored_B & (rank_B <= cut)
        return torch.where(counted_B, 1 / torch.log2(1 + rank_B.float()), 0.0)
