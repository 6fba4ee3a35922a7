"""The histories that a bundle proves itself with."""

from __future__ import annotations

import torch

from model_store.encoders.history import HistoryBatch

COUNT = 32


def golden_histories(train: HistoryBatch) -> HistoryBatch:
    """32 training histories (fewer when there are fewer) at even quantiles of length, one single item among them."""
    lengths = train.lengths
    order = lengths.argsort(stable=True)
    order = order[lengths[order] > 0]
    picks = torch.linspace(0, len(order) - 1, min(COUNT, len(order))).round().long()
    histories = [train.history(int(b)) for b in order[picks]]
    if histories:
        histories[0] = histories[0][:1]
    return HistoryBatch.of(histories)
