"""Small bundles, made in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
import torch
from transformers import LlamaConfig

from model_store.catalog import ItemCatalog
from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import LanguageModelConfig
from model_store.encoders.sequence import SequenceConfig
from model_store.manifest import Provenance
from model_store.rankers.pointwise import PointwiseConfig, PointwiseRanker
from model_store.rankers.verbalizer import VerbalizerConfig, VerbalizerRanker
from model_store.staging import BundleParts
from model_store.store import ModelStore

TinyParts = Callable[..., BundleParts]


def make_parts(family: str = "sasrec", *, items: int = 40, seed: int = 0, max_history: int = 12) -> BundleParts:
    """A `sequence` bundle with item ids `<family>-0` and so on; two categories; a control without its positions."""
    generator = torch.Generator().manual_seed(seed)
    frame = pl.DataFrame(
        {
            "item_id": [f"{family}-{row}" for row in range(items)],
            "title": [f"Film {row}" for row in range(items)],
            "text": [None if row % 3 else f"About {row}" for row in range(items)],
            "categories": [
                ["even" if row % 2 == 0 else "odd", *(["rare"] if row == 3 else [])] for row in range(items)
            ],
            "popularity": [(row * 7) % 11 for row in range(items)],
        }
    )
    config = SequenceConfig(
        items=items, dim=8, blocks=1, heads=2, max_history=max_history, jump=max(1, max_history // 4)
    )
    encoder = config.build().eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    lengths = [1 + b % (2 * max_history) for b in range(32)]
    histories = HistoryBatch.of([torch.randint(0, items, (length,), generator=generator) for length in lengths])

    def without_positions(windowed: HistoryBatch) -> torch.Tensor:
        stripped = config.build().eval()
        stripped.load_state_dict(encoder.state_dict())
        torch.nn.init.zeros_(stripped.positions.weight)
        vectors: torch.Tensor = stripped(windowed)
        return vectors

    return BundleParts(
        family=family,
        catalog=ItemCatalog(frame),
        encoder=encoder,
        item_vectors_ND=encoder.item_vectors_ND.detach().clone(),
        golden_histories=histories,
        controls={"position table": without_positions},
    )


def make_provenance(seed: int = 0) -> Provenance:
    return Provenance(
        run="tiny",
        recipe={},
        seed=seed,
        dataset="none",
        dataset_fingerprint="none",
        split_fingerprint="none",
        protocol="none",
        packages={},
        train_seconds=0.0,
    )


@pytest.fixture
def tiny_parts() -> TinyParts:
    return make_parts


@pytest.fixture
def provenance() -> Provenance:
    return make_provenance()


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@pytest.fixture
def publish(store: ModelStore, provenance: Provenance) -> Callable[..., str]:
    """Publishes a tiny bundle into `store` and returns its version."""

    def published(family: str = "sasrec", **options: int) -> str:
        return store.publish(store.stage(make_parts(family, **options), provenance=provenance))

    return published


@pytest.fixture
def bundle_folder(store: ModelStore, publish: Callable[..., str]) -> Path:
    return store.folder(publish())


def tiny_lm() -> dict[str, Any]:
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return dict(config.to_dict())


def make_verbalizer(
    *,
    items: int = 40,
    window: int = 6,
    windows: int = 1,
    weight: float = 0.5,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> VerbalizerRanker:
    """Random weights; item blocks of one to three tokens; six positions of history."""
    generator = torch.Generator().manual_seed(3)
    lengths = 1 + torch.arange(items) % 3
    config = VerbalizerConfig(
        weight=weight,
        window=window,
        windows=windows,
        lm=tiny_lm(),
        items=items,
        max_history=6,
        vocabulary=11,
        item_tokens=int(lengths.sum()),
        prefix=(1, 2),
        middle=(3,),
        suffix=(4, 5),
        identifiers=tuple(range(100, 100 + window)),
        dtype=dtype,
    )
    ranker = config.build().eval().requires_grad_(False)
    for parameter in ranker.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    for buffer in (ranker.frame_inputs, ranker.token_inputs):
        buffer.copy_(torch.randn(buffer.shape, generator=generator))
    ranker.item_tokens.offsets[1:] = lengths.cumsum(0)
    ranker.item_tokens.tokens.copy_(torch.randint(0, 11, (int(lengths.sum()),), generator=generator))
    return ranker


def make_pointwise(*, items: int = 40, window: int = 6, weight: float = 0.5) -> PointwiseRanker:
    generator = torch.Generator().manual_seed(4)
    encoder = LanguageModelConfig(lm=tiny_lm(), items=items, dim=8, max_history=12, jump=3, item_input="vector")
    ranker = PointwiseConfig(weight=weight, window=window, encoder=encoder).build().eval().requires_grad_(False)
    for tensor in (*ranker.parameters(), ranker.encoder.item_inputs, ranker.item_vectors_ND):
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return ranker


@pytest.fixture
def verbalizer() -> Callable[..., VerbalizerRanker]:
    return make_verbalizer


@pytest.fixture
def pointwise() -> Callable[..., PointwiseRanker]:
    return make_pointwise
