"""Item sides of a text family: what turns an item's text into the vector that is searched."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from model_store.encoders.decoder import read_row
from model_store.encoders.packed_attention import Packed
from model_store.encoders.token_row import TokenBlocks
from model_store.text_tower import item_head

MOST_TARGETS = 256  # of one batch that go through the language model with gradient


class FrozenTower(nn.Module):
    """Text vectors that the base made once, and a projector that learns: full gradient to every item, each step."""

    text_NH: Tensor

    def __init__(self, unit_NH: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("text_NH", unit_NH, persistent=False)
        self.head = item_head(unit_NH.shape[1], dim)

    def forward(self, targets_T: Tensor | None = None) -> Tensor:  # noqa: ARG002 - all items learn, targets or not
        """float32 [N, D] of unit length."""
        return normalize(self.head(self.text_NH), dim=-1)


class IdTower(nn.Module):
    """ID vectors of another model, and a projector that learns: full gradient to every item, each step.

    The same shape as `FrozenTower`, so that two recipes differ in what they know of an item and in nothing else. No
    LayerNorm: the length of an ID vector tells how often the item was chosen.
    """

    ids_ND: Tensor

    def __init__(self, ids_ND: Tensor, dim: int, *, hidden: int) -> None:
        super().__init__()
        self.register_buffer("ids_ND", ids_ND / ids_ND.std(), persistent=False)
        self.head = nn.Sequential(nn.Linear(ids_ND.shape[1], hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, targets_T: Tensor | None = None) -> Tensor:  # noqa: ARG002 - all items learn, targets or not
        """float32 [N, D] of unit length."""
        return normalize(self.head(self.ids_ND), dim=-1)


class CachedTower(nn.Module):
    """Items through the adapted language model: the batch's distinct targets with gradient, all others from a cache.

    causal: how the language model attends; as it does in histories.

    The cache is rebuilt when it is `refresh` training steps old, and whenever vectors are asked for without targets
    (which is how validation and export see exactly what the final weights make of every item).
    """

    cache_ND: Tensor

    def __init__(
        self,
        lm: nn.Module,
        embedding: nn.Module,
        blocks: TokenBlocks,
        *,
        dim: int,
        refresh: int,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self._causal = causal
        # Held without being registered: the encoder owns the language model, and the base's token table never learns.
        self._borrowed = (lm, embedding)
        self._blocks = blocks
        self._refresh = refresh
        # In steps. A checkpoint follows a validation, so a run that resumes without a cache makes the same one again.
        self._age: int | None = None
        hidden = int(lm.config.hidden_size)  # type: ignore[union-attr, arg-type]  # a transformers decoder
        self.head = item_head(hidden, dim)
        self.register_buffer("cache_ND", torch.zeros(len(blocks.offsets) - 1, dim), persistent=False)

    def forward(self, targets_T: Tensor | None = None) -> Tensor:
        """float32 [N, D] of unit length. targets_T: int64 rows whose vectors shall carry gradient."""
        if targets_T is None or self._age is None or self._age >= self._refresh:
            self._rebuild()
            self._age = 0
        if targets_T is None:
            return self.cache_ND
        self._age += 1
        rows = torch.unique(targets_T)
        if len(rows) > MOST_TARGETS:
            rows = rows[torch.randperm(len(rows), device=rows.device)[:MOST_TARGETS]]
        return self.cache_ND.index_copy(0, rows, self.encode(rows))

    @torch.no_grad()
    def _rebuild(self) -> None:
        lengths = self._blocks.offsets.diff()
        order = lengths.argsort(stable=True)
        for rows in torch.split(order, 256):
            rows = rows.to(self.cache_ND.device)
            self.cache_ND[rows] = self.encode(rows)

    def encode(self, rows: Tensor) -> Tensor:
        """float32 [R, D] of unit length, of the items in `rows`, with gradient: no cache is read."""
        lm, embedding = self._borrowed
        offsets = self._blocks.offsets
        pieces = [self._blocks.tokens[offsets[row] : offsets[row + 1]] for row in rows.tolist()]
        lengths = [len(piece) for piece in pieces]
        tokens_S = torch.cat(pieces).long()
        positions_S = torch.cat([torch.arange(length) for length in lengths]).to(rows.device)
        with torch.no_grad():
            # The table stays where it was made: nobody moves what is not registered.
            inputs_SH = embedding(tokens_S.to(next(embedding.parameters()).device)).to(rows.device)
        states_SH = read_row(lm, inputs_SH, positions_S, Packed(lengths, causal=self._causal)).float()
        means_RH = torch.stack([part.mean(0) for part in torch.split(states_SH, lengths)])
        return normalize(self.head(means_RH), dim=-1)
