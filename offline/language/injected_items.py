"""Items as one token each: vectors in the language model's input space, made of ID vectors, text vectors or both."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

ItemVectors = Literal["id", "text_vector", "sum"]


class ItemProjector(nn.Module):
    """P(v_i / std(V)) * std(E) + Q(t_i) * std(E).

    P: a two-layer GELU MLP d -> H -> H over ID vectors. Q: linear over centred text vectors of unit variance. std(E)
    brings both to the scale of the base's own token inputs. An item that stands many times in a batch is projected
    once: of the 3,200 events of a batch of ML-100K, 950 differ.
    """

    def __init__(self, *, dim: int | None, text_NH: Tensor | None, hidden: int, input_std: float) -> None:
        super().__init__()
        assert dim is not None or text_NH is not None
        self.input_std = input_std
        self.ids = None if dim is None else nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.text_NH: Tensor | None
        self.register_buffer(
            "text_NH", None if text_NH is None else text_NH * text_NH.shape[1] ** 0.5, persistent=False
        )
        self.text = None if text_NH is None else nn.Linear(hidden, hidden)

    def forward(self, rows_T: Tensor, item_vectors_ND: Tensor | None) -> Tensor:
        """float32 [T, H] for item rows int64 [T]."""
        rows_U, places_T = torch.unique(rows_T, return_inverse=True)
        parts: list[Tensor] = []
        if self.ids is not None:
            assert item_vectors_ND is not None
            parts.append(self.ids(item_vectors_ND[rows_U] / item_vectors_ND.detach().std()))
        if self.text is not None:
            assert self.text_NH is not None
            parts.append(self.text(self.text_NH[rows_U]))
        return (torch.stack(parts).sum(0) * self.input_std).index_select(0, places_T)

    @torch.no_grad()
    def table(self, items: int, item_vectors_ND: Tensor | None) -> Tensor:
        """float32 [N, H]: what the bundle stores."""
        device = next(self.parameters()).device
        return torch.cat([self(rows.to(device), item_vectors_ND) for rows in torch.split(torch.arange(items), 4096)])


class FixedItemProjector(ItemProjector):
    """Over ID vectors that stay as they are, whatever queries are matched with."""

    ids_ND: Tensor

    def __init__(self, ids_ND: Tensor, *, text_NH: Tensor | None, hidden: int, input_std: float) -> None:
        super().__init__(dim=ids_ND.shape[1], text_NH=text_NH, hidden=hidden, input_std=input_std)
        self.register_buffer("ids_ND", ids_ND, persistent=False)

    def forward(self, rows_T: Tensor, item_vectors_ND: Tensor | None) -> Tensor:  # noqa: ARG002 - another space's
        return super().forward(rows_T, self.ids_ND)


class VocabularyRows(nn.Module):
    """One new row of the language model's vocabulary per item: nothing makes them of vectors, they learn themselves.

    As rows that `resize_token_embeddings` adds, of which alone the gradient is kept: the base's own rows are frozen and
    are no part of training. They start as what `start` makes of the item vectors, so alike items start alike.
    """

    def __init__(self, start: ItemProjector, item_vectors_ND: Tensor) -> None:
        super().__init__()
        self.rows_NH = nn.Parameter(start.table(len(item_vectors_ND), item_vectors_ND))

    def forward(self, rows_T: Tensor, _item_vectors_ND: Tensor | None) -> Tensor:
        """float32 [T, H] for item rows int64 [T]."""
        return self.rows_NH[rows_T]

    @torch.no_grad()
    def table(self, items: int, _item_vectors_ND: Tensor | None) -> Tensor:
        """float32 [N, H]: what the bundle stores."""
        assert items == len(self.rows_NH)
        return self.rows_NH.detach().clone()
