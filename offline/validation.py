"""NDCG@10 of an encoder in memory, for choices made during training. Published figures never come from here."""

from __future__ import annotations

import torch
from torch import Tensor

from model_store.encoders.history import HistoryBatch, QueryEncoder
from offline.sequences import Queries

MOST_USERS = 2_000


class Validation:
    """At most 2,000 fixed validation queries (drawn once, by a constant seed), full ranking, ties by row."""

    def __init__(self, queries: Queries, *, exclude_seen: bool) -> None:
        keep = torch.arange(len(queries))
        if len(queries) > MOST_USERS:
            keep = torch.randperm(len(queries), generator=torch.Generator().manual_seed(0))[:MOST_USERS].sort().values
        self.histories = queries.histories.select(keep.tolist())
        self.targets = torch.as_tensor(queries.targets)[keep].long()
        self.exclude_seen = exclude_seen

    @torch.inference_mode()
    def ndcg10(self, encoder: QueryEncoder, item_vectors_ND: Tensor, *, chunk: int = 256) -> float:
        """Mean over the queries; item_vectors_ND is what the query vectors are matched with."""
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
            total += float(self._gains(scores_BN, whole, self.targets[part].to(scores_BN.device)).sum())
        encoder.train(was_training)
        return total / max(len(order), 1)

    def _gains(self, scores_BN: Tensor, histories: HistoryBatch, targets_B: Tensor) -> Tensor:
        target_B1 = scores_BN.gather(1, targets_B[:, None])
        if self.exclude_seen:
            users = torch.repeat_interleave(torch.arange(len(histories)), histories.lengths)
            scores_BN[users, histories.rows.long()] = float("-inf")
        rows_N = torch.arange(scores_BN.shape[1], device=scores_BN.device)
        ahead_BN = (scores_BN > target_B1) | ((scores_BN == target_B1) & (rows_N < targets_B[:, None]))
        rank_B = 1 + ahead_BN.sum(1)
        # Removed as seen, or no number: NaN is below nothing, and would else come first.
        scored_B = scores_BN.gather(1, targets_B[:, None]).squeeze(1).isfinite()
        return torch.where((rank_B <= 10) & scored_B, 1 / torch.log2(1 + rank_B.float()), 0.0)
