"""Raw events and items -> Interactions: the order of rows and events is decided here, once for every source."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from offline.datasets.interactions import Interactions
from offline.datasets.refusal import DataRefused

if TYPE_CHECKING:
    from offline.datasets.config import DataConfig

ITEMS: dict[str, pl.DataType] = {
    "item_id": pl.String(),
    "title": pl.String(),
    "text": pl.String(),
    "categories": pl.List(pl.String),
    "year": pl.Int64(),
}
NO_ITEMS = pl.DataFrame(schema=ITEMS)


def assemble(events: pl.DataFrame, items: pl.DataFrame, config: DataConfig, *, file: str) -> Interactions:
    """events: user_id, item_id, time_ms (nullable), rating (nullable), in file order. items: the columns of ITEMS.

    Item rows: the item table's order, then first appearance. Events: stable sort by (user, time); an empty time takes
    the user's previous one (a leading one the first that follows); users without any keep file order.
    """
    if config.min_rating is not None:
        if events["rating"].null_count() == len(events):
            raise DataRefused(file, "min_rating is set but no event has a rating", cure="name the column in `columns`")
        events = events.filter(pl.col("rating").is_null() | (pl.col("rating") >= config.min_rating))
    events = events.with_columns(user=_first_appearance(events["user_id"])).with_columns(
        time_ms=pl.col("time_ms").forward_fill().backward_fill().over("user").fill_null(-1)
    )
    events = events.sort("user", "time_ms", maintain_order=True)
    if config.repeat == "first":
        events = events.unique(["user", "item_id"], keep="first", maintain_order=True)
    kept = _k_core(events, config.k_core)
    if kept.is_empty():
        raise DataRefused(file, "no event is left after the filters", cure="lower `min_rating` or `k_core`")
    if len(kept) < len(events):
        # Users and items that fell out leave no empty rows behind; the order of the others stands.
        items = items.join(kept.select("item_id").unique(), on="item_id", how="semi", maintain_order="left")
    return _number(kept, items, config)


def _first_appearance(ids: pl.Series) -> pl.Series:
    """Dense numbers in order of first appearance."""
    position = pl.DataFrame({"id": ids}).with_row_index("position")
    return position.select(pl.col("position").min().over("id").rank("dense").cast(pl.Int32) - 1).to_series()


def _k_core(events: pl.DataFrame, k: int) -> pl.DataFrame:
    """Drops users and items with fewer than k events until nothing changes."""
    while k > 1:
        kept = events.filter((pl.len().over("user") >= k) & (pl.len().over("item_id") >= k))
        if len(kept) == len(events):
            break
        events = kept
    return events


def _number(events: pl.DataFrame, items: pl.DataFrame, config: DataConfig) -> Interactions:
    unlisted = events.select("item_id").join(items, on="item_id", how="anti", maintain_order="left")
    items = pl.concat([items.cast(ITEMS), unlisted.unique(maintain_order=True)], how="diagonal")  # type: ignore[arg-type]
    items = items.with_columns(pl.col("categories").fill_null([]))
    rows = items.select("item_id", pl.int_range(pl.len(), dtype=pl.Int32).alias("item_row"))
    events = events.join(rows, on="item_id", how="left", maintain_order="left")
    users = _first_appearance(events["user_id"])
    user_ids = tuple(events["user_id"].unique(maintain_order=True).to_list())
    return Interactions(
        name=config.name,
        fingerprint=_fingerprint(user_ids, items, events, users),
        user_ids=user_ids,
        items=items,
        users=users.to_numpy().astype(np.int32),
        item_rows=events["item_row"].to_numpy().astype(np.int32),
        times_ms=events["time_ms"].to_numpy().astype(np.int64),
        exclude_seen=config.exclude_seen,
    )


def _fingerprint(user_ids: tuple[str, ...], items: pl.DataFrame, events: pl.DataFrame, users: pl.Series) -> str:
    digest = hashlib.sha256()
    for text in user_ids:
        digest.update(text.encode() + b"\0")
    for item in items.iter_rows():
        digest.update(repr(item).encode())
    for numbers in (users, events["item_row"], events["time_ms"]):
        digest.update(numbers.to_numpy().astype("<i8").tobytes())
    return digest.hexdigest()
