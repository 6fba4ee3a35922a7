"""Where every token of a batch of histories stands in its packed row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model_store.encoders.history import HistoryBatch


class TokenBlocks(NamedTuple):
    """N token sequences, one per text: tokens int32[total], offsets int64[N + 1]."""

    tokens: Tensor
    offsets: Tensor


class ItemTokens(nn.Module):
    """The item blocks' tokens, as rows of the encoder's token table.

    It stays on the CPU wherever the encoder goes: rows are laid out there, and admission counts tokens there.
    """

    tokens: Tensor
    offsets: Tensor

    def __init__(self, items: int, total: int) -> None:
        super().__init__()
        self.register_buffer("tokens", torch.zeros(total, dtype=torch.int32))
        self.register_buffer("offsets", torch.zeros(items + 1, dtype=torch.int64))

    def _apply(self, _fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ItemTokens:  # noqa: ARG002
        return self

    def lengths(self, rows_T: Tensor) -> Tensor:
        """int64[T]."""
        rows_T = rows_T.long()
        return self.offsets[rows_T + 1] - self.offsets[rows_T]

    def of(self, rows_T: Tensor) -> Tensor:
        """int64: the blocks of these items, one after another."""
        return self.tokens[_ranges(self.offsets[rows_T.long()], self.lengths(rows_T))].long()


@dataclass(frozen=True, slots=True, eq=False)
class TokenRow:
    """B histories as one row of S tokens: [prefix] item blocks [suffix], each; all tensors on the CPU.

    lengths, starts: tokens of each history, and where it starts in the row.
    item_starts, item_tokens: where its items' tokens start, and how many they are.
    item_ends_T: the last token of each item: its read-out.
    positions_S: counted from the history's first token ever, known ones included.
    sources_S: index of each token's vector among prefix P, suffix, item vectors T, text tokens, in this order.
    items_S: index of the item (of T) whose block each token is in; of a suffix, the last item; -1 before the first one.
    """

    lengths: list[int]
    starts: list[int]
    item_starts: list[int]
    item_tokens: list[int]
    item_ends_T: Tensor
    positions_S: Tensor
    sources_S: Tensor
    items_S: Tensor

    def item_span(self, history: int) -> slice:
        return slice(self.item_starts[history], self.item_starts[history] + self.item_tokens[history])

    def kept_span(self, history: int) -> slice:
        """What a state holds: everything but the suffix."""
        return slice(self.starts[history], self.item_span(history).stop)


@dataclass(frozen=True, slots=True)
class Spelling:
    """prefix, suffix: tokens around the items. item_vector: each item's block ends in its vector (one position)."""

    prefix: int
    suffix: int
    item_vector: bool


def lay_out(
    histories: HistoryBatch, text_T: Tensor, *, spelling: Spelling, known: Sequence[int] | None = None
) -> TokenRow:
    """text_T: text tokens of each item's block. known: tokens of each history read before (no prefix is due then)."""
    block_T = text_T + int(spelling.item_vector)
    if len(block_T) and int(block_T.min()) < 1:
        raise ValueError("an item of these histories has no token to be read out at")
    past_B = torch.tensor(known) if known is not None else torch.zeros(len(histories), dtype=torch.int64)
    prefix_B = torch.where(past_B == 0, spelling.prefix, 0)
    item_tokens_B = sums(block_T, histories.offsets)
    lengths_B = prefix_B + item_tokens_B + spelling.suffix
    starts_B = lengths_B.cumsum(0) - lengths_B
    item_starts_B = starts_B + prefix_B

    before_T = block_T.cumsum(0) - block_T
    first_B = (item_tokens_B.cumsum(0) - item_tokens_B).repeat_interleave(histories.lengths)
    begins_T = item_starts_B.repeat_interleave(histories.lengths) + before_T - first_B
    ends_T = begins_T + block_T - 1

    sources_S = torch.empty(int(lengths_B.sum()), dtype=torch.int64)
    prefixes = _ranges(starts_B, prefix_B)
    sources_S[prefixes] = torch.arange(spelling.prefix).repeat(int((past_B == 0).sum()))
    suffixes = _ranges(item_starts_B + item_tokens_B, torch.full_like(lengths_B, spelling.suffix))
    sources_S[suffixes] = spelling.prefix + torch.arange(spelling.suffix).repeat(len(histories))
    next_source = spelling.prefix + spelling.suffix
    if spelling.item_vector:
        sources_S[ends_T] = next_source + torch.arange(len(ends_T))
        next_source += len(ends_T)
    sources_S[_ranges(begins_T, text_T)] = next_source + torch.arange(int(text_T.sum()))
    items_S = torch.full_like(sources_S, -1)
    items_S[_ranges(begins_T, block_T)] = torch.arange(len(block_T)).repeat_interleave(block_T)
    items_S[suffixes] = (histories.offsets[1:] - 1).repeat_interleave(spelling.suffix)
    return TokenRow(
        lengths=lengths_B.tolist(),
        starts=starts_B.tolist(),
        item_starts=item_starts_B.tolist(),
        item_tokens=item_tokens_B.tolist(),
        item_ends_T=ends_T,
        positions_S=_ranges(past_B, lengths_B),
        sources_S=sources_S,
        items_S=items_S,
    )


def _ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """start, start + 1, ... for each pair, one after another."""
    before = lengths.cumsum(0) - lengths
    return (starts - before).repeat_interleave(lengths) + torch.arange(int(lengths.sum()))


def sums(values_T: Tensor, offsets: Tensor) -> Tensor:
    running = torch.cat((torch.zeros(1, dtype=torch.int64), values_T.cumsum(0)))
    return running[offsets].diff()
