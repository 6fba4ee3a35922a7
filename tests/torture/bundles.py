"""Stores with two versions that have no item id in common: small sequence encoders, or SmolLM2 with a random head."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch

from model_store.catalog import ItemCatalog
from model_store.store import ModelStore
from tests.app.conftest import make_parts, publish_parts
from tests.conftest import smollm2_parts

FAMILIES = {"sequence": ("alpha", "beta"), "SmolLM2": ("gamma", "delta")}


@dataclass(frozen=True)
class TwoVersions:
    """`first` is live. Item ids are `<family>-<row>`, `items` of them in each."""

    store: ModelStore
    families: tuple[str, str]
    first: str
    second: str
    items: int
    max_history: int

    def history(self, n: int) -> list[str]:
        """Five items of each family: whichever version answers, five are unknown to it."""
        return [f"{family}-{(n * 7 + row) % self.items}" for row in range(5) for family in self.families]

    def unseen(self, draw: random.Random) -> list[str]:
        """A whole history of the first family, too many for any cache to have seen it."""
        return [f"{self.families[0]}-{draw.randrange(self.items)}" for _ in range(self.max_history)]


def request_of(history: list[str], **more: object) -> bytes:
    return json.dumps({"history": history, "exclude_seen": False, **more}).encode()


def sequence(folder: Path, *, full: bool) -> TwoVersions:
    """In full of the size that ML-100K gets."""
    store, items, dim = ModelStore(folder), 1682 if full else 60, 64 if full else 8
    first, second = (
        publish_parts(store, make_parts(family, items=items, dim=dim, seed=seed))
        for seed, family in enumerate(FAMILIES["sequence"])
    )
    store.activate(first, by="torture")
    return TwoVersions(store, ("alpha", "beta"), first, second, items, 12)


def smollm2(folder: Path, *, full: bool) -> TwoVersions:
    """The real SmolLM2-135M, six of its layers in full; skips, loudly, where it cannot be had."""
    store, items, dim, history = ModelStore(folder), 1682 if full else 60, 64 if full else 8, 50 if full else 12
    parts = smollm2_parts(keep_layers=6 if full else 1, items=items, dim=dim, max_history=history)
    frame = pl.DataFrame(
        {
            "title": [f"Film {row}" for row in range(items)],
            "text": pl.Series([None] * items, dtype=pl.String),
            "categories": [["film"]] * items,
            "popularity": list(range(items)),
        }
    )
    versions = []
    for seed, family in enumerate(FAMILIES["SmolLM2"]):
        torch.manual_seed(seed)
        catalog = ItemCatalog(frame.with_columns(item_id=pl.Series([f"{family}-{row}" for row in range(items)])))
        vectors_ND = torch.randn(items, dim)
        own = dataclasses.replace(parts, family=family, catalog=catalog, item_vectors_ND=vectors_ND)
        versions.append(publish_parts(store, own))
    store.activate(versions[0], by="torture")
    return TwoVersions(store, ("gamma", "delta"), versions[0], versions[1], items, history)


PROFILES: dict[str, Callable[..., TwoVersions]] = {"sequence": sequence, "SmolLM2": smollm2}
