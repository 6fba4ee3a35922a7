"""Small bundles, made in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch

from model_store.catalog import ItemCatalog
from model_store.encoders.history import HistoryBatch
from model_store.encoders.sequence import SequenceConfig
from model_store.manifest import Provenance
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
