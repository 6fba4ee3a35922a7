"""A space of its own between users and items: both sides are projected into it, instead of one into the other's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class CommonSpaceTower(nn.Module):
    """Two-layer projectors over frozen vectors of every item (a SASRec's, text vectors, or both, added): unit vectors.

    sources: each [N, d]; brought to unit variance first.
    """

    def __init__(self, sources: list[Tensor], dim: int) -> None:
        super().__init__()
        assert sources
        self._sources = len(sources)
        self.projectors = nn.ModuleList(_projector(source_Nd.shape[1], dim) for source_Nd in sources)
        for place, source_Nd in enumerate(sources):
            self.register_buffer(f"source_{place}", source_Nd / source_Nd.std(), persistent=False)

    def forward(self, targets_T: Tensor | None = None) -> Tensor:  # noqa: ARG002 - all items learn, targets or not
        """float32 [N, D] of unit length."""
        projected = [projector(self.get_buffer(f"source_{place}")) for place, projector in enumerate(self.projectors)]
        return normalize(torch.stack(projected).sum(0), dim=-1)


def _projector(width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim))
