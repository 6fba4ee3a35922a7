"""Tiny random decoders of several architectures, and encoders on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import LanguageModelConfig, LanguageModelEncoder

ITEMS = 40
VOCABULARY = 30

_TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 96,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # so that attention matters
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3"},
    "mistral": {"model_type": "mistral", "sliding_window": 5},
    "gemma3": {
        "model_type": "gemma3_text",
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 8,
    },
}


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> dict[str, Any]:
    return _TINY | ARCHITECTURES[request.param]


@pytest.fixture
def llama() -> dict[str, Any]:
    return _TINY | ARCHITECTURES["llama"]


@pytest.fixture
def make_encoder(llama: dict[str, Any]) -> Callable[..., LanguageModelEncoder]:
    """With all frozen inputs drawn at random; items of 1 to 4 tokens. Same arguments, same encoder."""

    def make(**changes: Any) -> LanguageModelEncoder:
        torch.manual_seed(0)
        values: dict[str, Any] = {
            "lm": llama,
            "items": ITEMS,
            "dim": 12,
            "max_history": 24,
            "jump": 6,
            "item_input": "vector",
            "prefix": (1, 2, 3),
        }
        if changes.get("item_input", "vector") != "vector":
            values |= {"vocabulary": VOCABULARY, "item_tokens": sum(1 + i % 4 for i in range(ITEMS))}
        encoder = LanguageModelConfig(**(values | changes)).build().eval()
        for name, buffer in encoder.named_buffers():
            if name.endswith("_inputs"):
                buffer.normal_()
        if hasattr(encoder, "item_tokens"):
            encoder.item_tokens.tokens.random_(0, VOCABULARY)
            encoder.item_tokens.offsets[1:] = torch.tensor([1 + i % 4 for i in range(ITEMS)]).cumsum(0)
        return encoder

    return make


@pytest.fixture
def histories() -> HistoryBatch:
    """16 histories of mixed lengths, two of them equal in length and neighbours, one of one item."""
    generator = torch.Generator().manual_seed(1)
    lengths = (5, 5, 1, 12, 3, 24, 2, 2, 7, 9, 1, 16, 4, 6, 11, 8)
    return HistoryBatch.of([torch.randint(ITEMS, (length,), generator=generator) for length in lengths])
