"""All test positions of a user in one pass per distinct window start, for encoders that read every position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model_store.encoders.history import AllPositions, HistoryBatch, QueryEncoder, window_start
from offline.splits.sequences import Queries


@dataclass(slots=True, eq=False)
class Window:
    """One history as the encoder reads it, and the queries that are prefixes of it: query -> index of its last item."""

    user: int
    start: int
    rows: Tensor
    last_items: dict[int, int] = field(default_factory=dict)

    def takes(self, user: int, start: int, *, rows: Tensor) -> bool:
        """Whether `rows` goes on from this window (a shuffled history, or one of another start, does not)."""
        grown = self.user == user and self.start == start and len(rows) >= len(self.rows)
        return grown and torch.equal(rows[: len(self.rows)], self.rows)


def windows_of(queries: Queries, *, max_history: int, jump: int) -> list[Window]:
    """Neighbouring queries of one user share a window while the start stands and the history grows."""
    windows: list[Window] = []
    for query, user in enumerate(queries.users):
        history = queries.histories.history(query)
        start = window_start(len(history), max_history=max_history, jump=jump)
        rows = history[start:]
        if not (windows and windows[-1].takes(int(user), start, rows=rows)):
            windows.append(Window(int(user), start, rows))
        windows[-1].rows = rows
        windows[-1].last_items[query] = len(rows) - 1
    return windows


@torch.inference_mode()
def read_positions(encoder: QueryEncoder, queries: Queries, *, budget: int) -> Tensor:
    """float32 [Q, D] on the CPU, equal to `encoder` of every windowed history. budget: tokens per forward pass."""
    assert isinstance(encoder, AllPositions)
    windows = windows_of(queries, max_history=encoder.max_history, jump=encoder.jump)
    costs = encoder.token_counts(HistoryBatch.of([window.rows for window in windows]))
    vectors_QD = torch.empty(len(queries), encoder.dim)
    for chunk in chunks(costs, budget):
        batch = HistoryBatch.of([windows[w].rows for w in chunk])
        places = [
            (query, int(offset) + last)
            for offset, w in zip(batch.offsets, chunk, strict=False)
            for query, last in windows[w].last_items.items()
        ]
        read, positions = torch.tensor(places).T
        states = encoder.forward_positions(batch)
        vectors_QD[read] = states[positions.to(states.device)].float().cpu()
    return vectors_QD


def chunks(costs: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices by rising cost, in groups whose padded cost stays within the budget (at least one index each)."""
    group: list[int] = []
    for index in sorted(range(len(costs)), key=costs.__getitem__):
        if group and costs[index] * (len(group) + 1) > budget:
            yield group
            group = []
        group.append(index)
    if group:
        yield group
