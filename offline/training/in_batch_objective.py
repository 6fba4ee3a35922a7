"""Softmax over the targets of a batch: for catalogues whose items cannot all be scored, or read, in every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from model_store.encoders.history import HistoryBatch
from offline.language.item_towers import MOST_TARGETS, CachedTower
from offline.training.gathered import gather
from offline.training.read_out_objective import ReadOutNextItem
from offline.training.windows import input_and_target, inputs_and_targets


def log_target_shares(train: HistoryBatch, items: int) -> Tensor:
    """log q, float32 [N]: q_j is item j's share of the training targets (every item but a user's first)."""
    first = train.offsets[:-1][train.lengths > 0]
    counts_N = torch.bincount(train.rows.long(), minlength=items)
    counts_N -= torch.bincount(train.rows[first].long(), minlength=items)
    # What never is a target never stands in a batch.
    return (counts_N.clamp(min=1).double() / counts_N.sum().clamp(min=1)).log().float()


def in_batch_loss(
    scores_TU: Tensor, *, targets_T: Tensor, columns_T: Tensor, rows_U: Tensor, counts_U: Tensor, log_q_N: Tensor
) -> Tensor:
    """Mean over T of the cross entropy of l_ij = s_ij - log q_j over the batch's targets j (Yi et al., 2019,
    "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations").

    Items come into a batch as often as they are targets, so each stands for 1 / q of the catalogue: log q is
    subtracted, of the positive too. scores_TU: -inf where a column is no negative. rows_U, counts_U: the item of each
    column, and how many targets of the batch it stands for. columns_T: each target's own column. A further column of
    the same item is no negative.
    """
    logits_TU = scores_TU - log_q_N[rows_U] + counts_U.log()
    own_T1 = columns_T[:, None]
    positive_T1 = scores_TU.gather(1, own_T1) - log_q_N[targets_T][:, None]
    logits_TU = logits_TU.masked_fill(targets_T[:, None] == rows_U, float("-inf")).scatter(1, own_T1, positive_T1)
    return cross_entropy(logits_TU, columns_T)


class InBatchNextItem(ReadOutNextItem):
    """`ReadOutNextItem` with no other candidates than the targets of the batch, of all processes together.

    items: reads the targets' texts through the adapted language model, with gradient.
    log_q_N: `log_target_shares`.
    chunk: windows that go through the language model together, None for all. More of them are read twice: once for
    their vectors, and again, chunk by chunk, when the gradient of each vector is known (GradCache, Gao et al., 2021,
    "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"). The gradients are the same; the memory
    is that of one chunk.
    """

    log_q_N: Tensor

    def __init__(
        self, encoder: Any, items: CachedTower, *, log_q_N: Tensor, chunk: int | None = None, **settings: Any
    ) -> None:
        super().__init__(encoder, items, **settings)
        assert self.distillation is None, "a teacher's best items are not in the batch"
        self.chunk = chunk
        self.register_buffer("log_q_N", log_q_N, persistent=False)

    def forward(self, windows: HistoryBatch) -> Tensor:
        _, targets_T = input_and_target(windows) if self.single_target else inputs_and_targets(windows)
        targets_T = targets_T.to(self.log_q_N.device)
        self._clamp()
        own_rows, columns_T, own_counts = torch.unique(targets_T, return_inverse=True, return_counts=True)
        vectors_UD, start = gather(self._items(own_rows))
        rows_U, counts_U = gather(own_rows)[0], gather(own_counts)[0]
        scores_TU = self._users_by_chunk(windows) @ vectors_UD.T
        if self.groups_N is not None:
            twins_TU = self.groups_N[targets_T][:, None] == self.groups_N[rows_U]
            scores_TU = scores_TU.masked_fill(twins_TU & (targets_T[:, None] != rows_U), float("-inf"))
        return in_batch_loss(
            scores_TU,
            targets_T=targets_T,
            columns_T=columns_T + start,
            rows_U=rows_U,
            counts_U=counts_U,
            log_q_N=self.log_q_N,
        )

    def _items(self, rows_U: Tensor) -> Tensor:
        assert isinstance(self.items, CachedTower)
        if self.chunk is None:
            return self.items.encode(rows_U)
        return torch.cat([_read_twice(self.items.encode, part) for part in torch.split(rows_U, MOST_TARGETS)])

    def _users_by_chunk(self, windows: HistoryBatch) -> Tensor:
        if self.chunk is None or len(windows) <= self.chunk:
            return self._users_of(windows)
        parts = [windows.select(part.tolist()) for part in torch.split(torch.arange(len(windows)), self.chunk)]
        return torch.cat([_read_twice(self._users_of, part) for part in parts])

    def _users_of(self, windows: HistoryBatch) -> Tensor:
        inputs, _ = input_and_target(windows) if self.single_target else inputs_and_targets(windows)
        return self._users(inputs, self.items.cache_ND)  # type: ignore[arg-type]


def _read_twice(read: Any, given: Any) -> Tensor:
    """Nothing is kept of the first reading but its result; the second draws the same dropout."""
    vectors_XD: Tensor = checkpoint(read, given, use_reentrant=False)
    return vectors_XD
