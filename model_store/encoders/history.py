"""Histories, what an encoder makes of them, and the contracts that encoders keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pydantic import BaseModel


def window_start(length: int, *, max_history: int, jump: int) -> int:
    """Index of the first item that a window over `length` items keeps.

    The smallest multiple of `jump` that leaves at most `max_history` items. It moves in jumps, so that a growing
    history keeps its prefix (and what is cached for it) for `jump` items in a row.
    """
    over = length - max_history
    return 0 if over <= 0 else -(-over // jump) * jump


@dataclass(frozen=True, slots=True)
class HistoryBatch:
    """B ragged histories, oldest item first, on the CPU.

    rows: int32[total], item rows >= 0.
    offsets: int64[B + 1], offsets[0] == 0; history b is rows[offsets[b]:offsets[b + 1]].
    Padding exists only inside an encoder that wants it.
    """

    rows: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, histories: Iterable[Sequence[int] | Tensor]) -> HistoryBatch:
        parts = [torch.as_tensor(history, dtype=torch.int32) for history in histories]
        lengths = torch.tensor([0, *(len(part) for part in parts)], dtype=torch.int64)
        rows = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int32)
        return cls(rows, lengths.cumsum(0))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """int64[B]."""
        return self.offsets.diff()

    def history(self, b: int) -> Tensor:
        """int32[T_b], a view."""
        return self.rows[int(self.offsets[b]) : int(self.offsets[b + 1])]

    def select(self, indices: Iterable[int]) -> HistoryBatch:
        return HistoryBatch.of([self.history(int(b)) for b in indices])

    def windowed(self, max_history: int, jump: int) -> HistoryBatch:
        """Every history cut to the model's window by `window_start`; itself when nothing is too long."""
        if len(self) == 0 or int(self.lengths.max()) <= max_history:
            return self
        return HistoryBatch.of(
            [h[window_start(len(h), max_history=max_history, jump=jump) :] for h in map(self.history, range(len(self)))]
        )

    def padded(self) -> tuple[Tensor, Tensor]:
        """rows int64[B, T], zero on the right of each history; mask bool[B, T], True on items."""
        lengths = self.lengths
        width = int(lengths.max()) if len(self) else 0
        mask_BT = torch.arange(width)[None, :] < lengths[:, None]
        rows_BT = torch.zeros(len(self), width, dtype=torch.int64)
        rows_BT[mask_BT] = self.rows.long()
        return rows_BT, mask_BT


@dataclass(frozen=True, slots=True, eq=False)
class UserState:
    """What a causal encoder keeps of a history it has read, so that new items can be read alone.

    Immutable, and owner of its memory (never a view into a batch): extending makes a new one, and two requests may
    extend the same one in one batch.

    rows: the item rows it stands for.
    keys_values: per layer [2, kv_heads, tokens, head_dim].
    pooled_H: float32 running sum for mean pooling, or None.
    """

    rows: tuple[int, ...]
    keys_values: tuple[Tensor, ...]
    pooled_H: Tensor | None = None

    @property
    def tokens(self) -> int:
        return int(self.keys_values[0].shape[2])

    @property
    def nbytes(self) -> int:
        return sum(kv.nbytes for kv in self.keys_values)


@dataclass(frozen=True, slots=True)
class Encoded:
    """vectors_BD: float32 query vectors. states: one per history where the encoder grows, else all None."""

    vectors_BD: Tensor
    states: tuple[UserState | None, ...]


class QueryEncoder(nn.Module, ABC):
    """Turns histories into query vectors that are matched with item vectors by inner product.

    `config` is a pydantic model with a `kind` (the manifest's discriminator) and `build() -> QueryEncoder`; building
    and then loading the state dict restores the encoder. `dim`, `max_history` and `jump` are read from it.
    The forward pass does not change the encoder, and does not keep what it is given.
    """

    config: BaseModel
    dim: int
    max_history: int
    jump: int

    @abstractmethod
    def forward(self, histories: HistoryBatch) -> Tensor:
        """float32 [B, D]. Every history has 1..max_history items (`Bundle.encode` cuts them); ValueError otherwise."""

    def token_counts(self, histories: HistoryBatch) -> list[int]:
        """Cost of each history in tokens that the encoder will read: what admission and batching count in.

        One for each item at the least.
        """
        return [int(n) for n in histories.lengths]

    def rebuild_buffers(self) -> None:
        """Recompute what the state dict does not hold (RoPE tables) after a load on the meta device."""


@runtime_checkable
class AllPositions(Protocol):
    """Causal encoders: the query vector after every item of a history in one pass."""

    def forward_positions(self, histories: HistoryBatch) -> Tensor:
        """float32 [total, D]; position t of history b equals `forward` of its first t + 1 items."""


@runtime_checkable
class Growing(Protocol):
    """Causal encoders: a history that extends a known one costs only its new items."""

    def extend(self, states: Sequence[UserState | None], new: HistoryBatch) -> Encoded:
        """Vectors and states of (rows of states[b]) ++ new[b]; None stands for no known prefix. Changes no state."""


@runtime_checkable
class ItemTextEncoder(Protocol):
    """Encoders that can place an item by its text alone: new items, search by text."""

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """float32 [N, D], in the space of the item vectors."""
