"""From a mask over events to what a split holds: histories, queries, the catalogue of the training events."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from model_store.catalog import ItemCatalog
from model_store.encoders.history import HistoryBatch
from offline.datasets.interactions import Interactions
from offline.splits.sequences import Queries, SequenceDataset

Rows = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


def histories_of(sequences: Sequence[Rows]) -> HistoryBatch:
    lengths = np.array([0, *(len(sequence) for sequence in sequences)], dtype=np.int64)
    rows = np.concatenate(sequences) if sequences else np.empty(0, dtype=np.int32)
    return HistoryBatch(torch.from_numpy(rows.astype(np.int32)), torch.from_numpy(lengths.cumsum()))


def sequences_of(interactions: Interactions, kept_E: Mask) -> list[Rows]:
    """Per user row the item rows of the kept events, oldest first."""
    users, rows = interactions.users[kept_E], interactions.item_rows[kept_E]
    bounds = np.searchsorted(users, np.arange(len(interactions.user_ids) + 1))
    return [rows[start:end] for start, end in pairwise(bounds)]


def dataset_of(
    interactions: Interactions,
    protocol: str,
    *,
    train_E: Mask,
    validation: Queries,
    cold_items: Mask | None = None,
) -> SequenceDataset:
    """train_E: bool[E], the events that may be fitted to. Data and protocol together name the split."""
    train = sequences_of(interactions, train_E)
    return SequenceDataset(
        name=interactions.name,
        fingerprint=interactions.fingerprint,
        split_fingerprint=hashlib.sha256(f"{interactions.fingerprint} {protocol}".encode()).hexdigest(),
        protocol=protocol,
        catalog=catalog_of(interactions.items, train),
        items=interactions.items,
        train=histories_of(train),
        validation=validation,
        exclude_seen=interactions.exclude_seen,
        cold_items=np.zeros(len(interactions.items), dtype=bool) if cold_items is None else cold_items,
    )


def catalog_of(items: pl.DataFrame, train: list[Rows]) -> ItemCatalog:
    """Popularity counts training events; the title falls back to the id and carries the year where one is known."""
    events = np.concatenate(train) if train else np.empty(0, dtype=np.int32)
    title = pl.col("title").fill_null(pl.col("item_id"))
    with_year = pl.format("{} ({})", title, pl.col("year"))
    return ItemCatalog(
        items.select(
            "item_id",
            pl.when(pl.col("year").is_not_null()).then(with_year).otherwise(title).alias("title"),
            "text",
            "categories",
            pl.Series("popularity", np.bincount(events, minlength=len(items)), dtype=pl.Int64),
        )
    )
