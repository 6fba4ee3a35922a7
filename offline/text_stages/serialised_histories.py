"""Histories written out as text: what the stages that train a language model on tokens read.

Training events only. A history written whole would hold the titles that validation and test ask for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model_store.encoders.history import HistoryBatch
from model_store.encoders.token_row import ItemTokens, Spelling, TokenBlocks, TokenRow, lay_out
from offline.splits.sequences import SequenceDataset

HELD_OUT_USERS = 0.05
MOST_HELD_OUT = 32  # windows: the loss of some 20,000 tokens is known to .02


@dataclass(frozen=True, slots=True, eq=False)
class WrittenRow:
    """row: where every token stands. tokens_S: int64, the base's token ids."""

    row: TokenRow
    tokens_S: Tensor


class SerialisedHistories:
    """The training sequences as windows of items that do not overlap, each written as prefix, item blocks.

    train, held_out: windows of item rows; no user is in both. ValueError when fewer than two users have an event.
    """

    def __init__(
        self, dataset: SequenceDataset, blocks: TokenBlocks, *, prefix: tuple[int, ...], max_history: int
    ) -> None:
        self.prefix = prefix
        self._spelling = Spelling(len(prefix), 0, item_vector=False)
        self._items = ItemTokens(len(blocks.offsets) - 1, len(blocks.tokens))
        self._items.tokens, self._items.offsets = blocks.tokens, blocks.offsets
        sequences = [h for h in map(dataset.train.history, range(len(dataset.train))) if len(h)]
        if len(sequences) < 2:
            raise ValueError(
                "a stage on serialised histories needs two users, one to learn from and one to be held out, and there "
                f"is {len(sequences)}: leave healing, next_title, mntp and simcse out"
            )
        # A constant seed: losses of different seeds are of the same text.
        order = torch.randperm(len(sequences), generator=torch.Generator().manual_seed(0)).tolist()
        held = max(1, int(HELD_OUT_USERS * len(sequences)))
        self.held_out = _windows([sequences[u] for u in order[:held]], max_history, most=MOST_HELD_OUT)
        self.train = _windows([sequences[u] for u in sorted(order[held:])], max_history)

    def written(self, windows: HistoryBatch) -> WrittenRow:
        row = lay_out(windows, self._items.lengths(windows.rows), spelling=self._spelling)
        sources = torch.cat((torch.tensor(self.prefix, dtype=torch.int64), self._items.of(windows.rows)))
        return WrittenRow(row, sources[row.sources_S])

    def tokens(self, windows: HistoryBatch) -> Tensor:
        """int64[B]: tokens of each window, prefix included."""
        before = torch.cat((torch.zeros(1, dtype=torch.int64), self._items.lengths(windows.rows).cumsum(0)))
        return before[windows.offsets].diff() + len(self.prefix)

    def portion(self, number: int, *, tokens: int, seed: int) -> HistoryBatch:
        """Windows of the `number`-th stretch of so many tokens of an endless reading; each pass has its own order."""
        lengths = self.tokens(self.train)
        whole = int(lengths.sum())
        tokens = max(tokens, int(lengths.max()))  # no stretch without a window
        first, end = number * tokens, (number + 1) * tokens
        found: list[Tensor] = []
        for reading in range(first // whole, (end - 1) // whole + 1):
            order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed * 7_919 + reading))
            starts = reading * whole + lengths[order].cumsum(0) - lengths[order]
            found.append(order[(starts >= first) & (starts < end)])
        return self.train.select(torch.cat(found).tolist())


def _windows(sequences: list[Tensor], max_history: int, *, most: int | None = None) -> HistoryBatch:
    return HistoryBatch.of([part for sequence in sequences for part in torch.split(sequence, max_history)][:most])
