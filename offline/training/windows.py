"""Training windows: pieces of sequences that one forward pass reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from model_store.encoders.history import HistoryBatch


@dataclass(frozen=True, slots=True, eq=False)
class UserWindows(HistoryBatch):
    """Windows that know whose they are: users int64[B], rows of the training split."""

    users: Tensor

    @classmethod
    def of_users(cls, pieces: Sequence[Tensor], users: Sequence[int]) -> Self:
        made = HistoryBatch.of(pieces)
        return cls(made.rows, made.offsets, torch.tensor(users, dtype=torch.int64))

    def select(self, indices: Iterable[int]) -> UserWindows:
        chosen = list(indices)
        return UserWindows.of_users([self.history(b) for b in chosen], self.users[chosen].tolist())


def training_windows(train: HistoryBatch, max_history: int) -> UserWindows:
    """Windows of up to `max_history` + 1 items with stride `max_history`, cut from the end of every sequence.

    A window of n items gives n - 1 inputs and n - 1 targets; every item but a user's first is a target exactly once.
    """
    pieces = [
        (user, sequence[max(0, end - max_history - 1) : end])
        for user, sequence in enumerate(map(train.history, range(len(train))))
        for end in range(len(sequence), 1, -max_history)
    ]
    return UserWindows.of_users([piece for _, piece in pieces], [user for user, _ in pieces])


def cuts(train: HistoryBatch, max_history: int, *, per_user: int, seed: int, epoch: int) -> UserWindows:
    """For encoders that give one vector per history: up to `per_user` prefixes of each sequence, drawn anew each epoch.

    The last item of a cut is its target, the up to `max_history` items before it are its input; a sequence of n items
    has n - 1 cuts, each drawn at most once.
    """
    generator = torch.Generator().manual_seed(seed * 7_919 + epoch)
    pieces: list[Tensor] = []
    users: list[int] = []
    for user, sequence in enumerate(map(train.history, range(len(train)))):
        drawn = torch.randperm(max(0, len(sequence) - 1), generator=generator)[:per_user] + 2
        pieces += [sequence[max(0, end - max_history - 1) : end] for end in drawn.sort().values.tolist()]
        users += [user] * len(drawn)
    return UserWindows.of_users(pieces, users)


def input_and_target(windows: HistoryBatch) -> tuple[HistoryBatch, Tensor]:
    """All but the last item of each window, and that last item: int64[B]."""
    return _inputs(windows), windows.rows[windows.offsets[1:] - 1].long()


def inputs_and_targets(windows: HistoryBatch) -> tuple[HistoryBatch, Tensor]:
    """All but the last item of each window, and for each of them the item that follows: int64[total]."""
    targets = HistoryBatch.of([windows.history(b)[1:] for b in range(len(windows))])
    return _inputs(windows), targets.rows.long()


def _inputs(windows: HistoryBatch) -> HistoryBatch:
    """Of windows that know their users, so do the inputs."""
    made = HistoryBatch.of([windows.history(b)[:-1] for b in range(len(windows))])
    return replace(windows, rows=made.rows, offsets=made.offsets)


def shuffled_batches(
    windows: HistoryBatch, size: int, *, seed: int, epoch: int, targets: int | None = None
) -> Iterator[list[int]]:
    """Indices of windows: batches of like length, so that little is padded; which, and in which order, is drawn.

    targets: about so many in every batch, where each item of a window but the first is one, instead of `size` windows.
    """
    generator = torch.Generator().manual_seed(seed * 7_919 + epoch)
    order = torch.randperm(len(windows), generator=generator)
    lengths = windows.lengths
    if targets is not None:  # as many windows of the mean length
        size = max(1, round(targets * len(windows) / max(1, int((lengths - 1).sum()))))
    chunk = size * 16
    batches: list[list[int]] = []
    for start in range(0, len(order), chunk):
        part = order[start : start + chunk]
        part = part[lengths[part].argsort(stable=True)]
        if targets is None:
            batches += [part[at : at + size].tolist() for at in range(0, len(part), size)]
        else:
            batches += _of_alike_many_targets(part, lengths[part] - 1, targets)
    for at in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[at]


def _of_alike_many_targets(part: Tensor, targets_W: Tensor, targets: int) -> list[list[int]]:
    """The windows of `part` in their order, cut where so many targets are together: as many pieces as come nearest to
    that, of about as many targets each, so that no small rest counts for as much as a whole batch."""
    total = int(targets_W.sum())
    pieces = max(1, round(total / targets))
    # A window belongs to the piece that its middle target falls into.
    middles_W = targets_W.cumsum(0) - targets_W / 2
    piece_W = (middles_W * pieces / max(total, 1)).long().clamp(max=pieces - 1)
    cut = [part[piece_W == piece].tolist() for piece in range(pieces)]
    return [piece for piece in cut if piece]
