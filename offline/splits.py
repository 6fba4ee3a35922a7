"""What is fitted to, what choices are made on, and what is looked at once."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from model_store.catalog import ItemCatalog
from model_store.encoders.history import HistoryBatch
from offline.datasets.interactions import Interactions
from offline.datasets.refusal import DataRefused
from offline.sequences import Queries, SequenceDataset, Split

Protocol = Literal["last-10", "leave-one-out"]
HELD: dict[Protocol, int] = {"last-10": 10, "leave-one-out": 1}


def split(interactions: Interactions, protocol: Protocol) -> Split:
    """Per user: the last `held` events are test, the one before them validation, all before that training.

    Every test event has the true history before it, validation and earlier test events included. Users with fewer
    than held + 2 events (nothing would be left to train on) stay in training whole and give no queries; DataRefused
    when all users are such.
    """
    held = HELD[protocol]
    sequences = interactions.sequences()
    eligible = np.array([len(sequence) >= held + 2 for sequence in sequences])
    if not eligible.any():
        longest = max(map(len, sequences), default=0)
        raise DataRefused(
            interactions.name,
            f'no user has the {held + 2} events that protocol = "{protocol}" needs; the longest history has {longest}',
            cure="choose another protocol, or lower `min_rating` or `k_core`",
        )
    train = [s[: len(s) - held - 1] if keep else s for s, keep in zip(sequences, eligible, strict=True)]
    (users,) = np.nonzero(eligible)
    fingerprint = hashlib.sha256(f"{interactions.fingerprint} {protocol}".encode()).hexdigest()
    dataset = SequenceDataset(
        name=interactions.name,
        fingerprint=interactions.fingerprint,
        split_fingerprint=fingerprint,
        protocol=protocol,
        catalog=catalog_of(interactions.items, train),
        items=interactions.items,
        train=histories_of(train),
        validation=_queries(sequences, users, range(held + 1, held, -1)),
        exclude_seen=interactions.exclude_seen,
    )
    return Split(dataset, test=_queries(sequences, users, range(held, 0, -1)))


def histories_of(sequences: list[npt.NDArray[np.int32]]) -> HistoryBatch:
    lengths = np.array([0, *(len(sequence) for sequence in sequences)], dtype=np.int64)
    rows = np.concatenate(sequences) if sequences else np.empty(0, dtype=np.int32)
    return HistoryBatch(torch.from_numpy(rows.astype(np.int32)), torch.from_numpy(lengths.cumsum()))


def _queries(sequences: list[npt.NDArray[np.int32]], users: npt.NDArray[np.intp], from_end: range) -> Queries:
    """from_end: positions of the targets, 1 = the last event."""
    places = [(sequences[user], len(sequences[user]) - back) for user in users for back in from_end]
    return Queries(
        histories=histories_of([sequence[:place] for sequence, place in places]),
        targets=np.array([sequence[place] for sequence, place in places], dtype=np.int32),
        users=np.repeat(users, len(from_end)).astype(np.int32),
    )


def catalog_of(items: pl.DataFrame, train: list[npt.NDArray[np.int32]]) -> ItemCatalog:
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
