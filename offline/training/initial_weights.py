"""Initial weights of small transformers: N(0, .02), as GPT-2's, and no bias."""

from __future__ import annotations

from torch import nn


def initialise(module: nn.Module) -> None:
    """For `module.apply`: linear layers and embeddings; other modules keep their own."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
