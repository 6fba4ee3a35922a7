"""Training windows: pieces of sequences that one forward pass reads."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from model_store.encoders.history import HistoryBatch


def training_windows(train: HistoryBatch, max_history: int) -> HistoryBatch:
    """Windows of up to `max_history` + 1 items with stride `max_history`, cut from the end of every sequence.

    A window of n items gives n - 1 inputs and n - 1 targets; every item but a user's first is a target exactly once.
    """
    sequences = [train.history(b) for b in range(len(train))]
    pieces: list[Tensor] = [
        sequence[max(0, end - max_history - 1) : end]
        for sequence in sequences
        for end in range(len(sequence), 1, -max_history)
    ]
    return HistoryBatch.of(pieces)


def cuts(train: HistoryBatch, max_history: int, *, per_user: int, seed: int, epoch: int) -> HistoryBatch:
    """For encoders that give one vector per history: up to `per_user` prefixes of each sequence, drawn anew each epoch.

    The last item of a cut is its target, the up to `max_history` items before it are its input; a sequence of n items
    has n - 1 cuts, each drawn at most once.
    """
    generator = torch.Generator().manual_seed(seed * 7_919 + epoch)
    pieces: list[Tensor] = []
    for sequence in map(train.history, range(len(train))):
        drawn = torch.randperm(max(0, len(sequence) - 1), generator=generator)[:per_user] + 2
        pieces += [sequence[max(0, end - max_history - 1) : end] for end in drawn.sort().values.tolist()]
    return HistoryBatch.of(pieces)


def input_and_target(windows: HistoryBatch) -> tuple[HistoryBatch, Tensor]:
    """All but the last item of each window, and that last item: int64[B]."""
    inputs = HistoryBatch.of([windows.history(b)[:-1] for b in range(len(windows))])
    return inputs, windows.rows[windows.offsets[1:] - 1].long()


def inputs_and_targets(windows: HistoryBatch) -> tuple[HistoryBatch, Tensor]:
    """All but the last item of each window, and for each of them the item that follows: int64[total]."""
    inputs = HistoryBatch.of([windows.history(b)[:-1] for b in range(len(windows))])
    targets = HistoryBatch.of([windows.history(b)[1:] for b in range(len(windows))])
    return inputs, targets.rows.long()


def shuffled_batches(windows: HistoryBatch, size: int, *, seed: int, epoch: int) -> Iterator[list[int]]:
    """Indices of windows: batches of like length, so that little is padded; which, and in which order, is drawn."""
    generator = torch.Generator().manual_seed(seed * 7_919 + epoch)
    order = torch.randperm(len(windows), generator=generator)
    lengths = windows.lengths
    chunk = size * 16
    batches: list[list[int]] = []
    for start in range(0, len(order), chunk):
        part = order[start : start + chunk]
        part = part[lengths[part].argsort(stable=True)]
        batches += [part[at : at + size].tolist() for at in range(0, len(part), size)]
    for at in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[at]
