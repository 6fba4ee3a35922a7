"""Data that several tests read. Real data is never in the repository: without it the tests skip and say so."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model_store.bundle import Bundle
from model_store.manifest import Provenance
from model_store.staging import BundleParts
from model_store.store import ModelStore
from offline.datasets import DataRefused, Interactions, load
from offline.datasets.assembly import assemble
from offline.datasets.config import TablesConfig
from offline.workspace import Workspace

OpenBundle = Callable[..., Bundle]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def ml_100k() -> Interactions:
    try:
        return load("ml-100k")
    except DataRefused as refusal:
        pytest.skip(f"MovieLens 100K is not here: {refusal}")


@pytest.fixture(scope="session")
def beauty() -> Interactions:
    folder = Path(os.environ.get("NAISEKI_BEAUTY", ROOT.parent / "shared/data/amazon-beauty"))
    if not folder.is_dir():
        pytest.skip(f"Amazon Beauty is not in {folder}: set NAISEKI_BEAUTY")
    return load(
        TablesConfig(name="amazon-beauty", interactions=f"{folder}/interactions.tsv.gz", items=f"{folder}/items.tsv.gz")
    )


@pytest.fixture(scope="session")
def small_world() -> Interactions:
    """60 users, 40 items in three categories, 12 to 30 events each; a walk through the items, so that order tells."""
    rng = np.random.default_rng(0)
    users, items = [], []
    for user in range(60):
        place = int(rng.integers(40))
        for _ in range(int(rng.integers(12, 31))):
            users.append(f"u{user}")
            items.append(f"i{place}")
            place = int((place + rng.integers(1, 4)) % 40)
    events = pl.DataFrame({"user_id": users, "item_id": items}).with_row_index("time_ms").with_columns(rating=None)
    titles = pl.DataFrame(
        {
            "item_id": [f"i{row}" for row in range(40)],
            "title": [f"Item {row}" for row in range(40)],
            "text": None,
            "categories": [[f"c{row % 3}"] for row in range(40)],
            "year": [2000 + row % 5 for row in range(40)],
        }
    )
    return assemble(
        events.with_columns(pl.col("time_ms").cast(pl.Int64), pl.col("rating").cast(pl.Float64)),
        titles,
        TablesConfig(name="small-world", interactions="-"),
        file="-",
    )


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "cache")


@pytest.fixture
def open_bundle(tmp_path: Path) -> OpenBundle:
    """Parts, and what they were trained by -> the bundle as it is staged on disk and loaded again."""

    def opened(parts: BundleParts, recipe: Mapping[str, Any] | None = None) -> Bundle:
        provenance = Provenance(
            run="test",
            recipe=dict(recipe or {}),
            seed=0,
            dataset="-",
            dataset_fingerprint="-",
            split_fingerprint="-",
            protocol="last-10",
            packages={},
            train_seconds=0,
        )
        return Bundle.load(ModelStore(tmp_path / "store").stage(parts, provenance=provenance).folder)

    return opened


@pytest.fixture(autouse=True)
def own_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Text vectors and checkpoints of a test go nowhere else; the data cache stays shared."""
    if "ml_100k" not in request.fixturenames:
        monkeypatch.setenv("NAISEKI_CACHE", str(tmp_path / "cache"))
