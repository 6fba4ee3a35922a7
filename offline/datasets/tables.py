"""Two tables of a person's own: interactions, and (if there are any) items."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from offline.datasets import assembly
from offline.datasets.config import EventColumns, ItemColumns, TablesConfig
from offline.datasets.interactions import Interactions
from offline.datasets.reading import column, expand, ids, read_table
from offline.datasets.refusal import DataRefused
from offline.datasets.times import to_ms


def load(config: TablesConfig) -> Interactions:
    events_file = expand(config.interactions)
    events = events_of(read_table(events_file), config.columns, file=events_file, time_unit=config.time_unit)
    items = assembly.NO_ITEMS
    if config.items is not None:
        items_file = expand(config.items)
        items = items_of(
            read_table(items_file), config.item_columns, file=items_file, separator=config.categories_separator
        )
    return assembly.assemble(events, items, config, file=str(events_file))


def events_of(frame: pl.DataFrame, columns: EventColumns, *, file: Path, time_unit: str) -> pl.DataFrame:
    """user_id, item_id, time_ms, rating in file order."""
    users = ids(column(frame, columns.user, file=file, key="columns.user"), file=file)
    items = ids(column(frame, columns.item, file=file, key="columns.item"), file=file)
    if columns.time:
        raw = column(frame, columns.time, file=file, key='columns.time` (or "" for none) `')
        times = to_ms(raw, time_unit, file=file)
    else:
        times = pl.Series([None], dtype=pl.Int64).new_from_index(0, len(frame))
    ratings = _optional(frame, columns.rating, explicit="rating" in columns.model_fields_set, file=file)
    return pl.DataFrame(
        {
            "user_id": users,
            "item_id": items,
            "time_ms": times,
            "rating": _numbers(ratings, file=file),
        }
    )


def items_of(frame: pl.DataFrame, columns: ItemColumns, *, file: Path, separator: str) -> pl.DataFrame:
    """The columns of assembly.ITEMS; titles and texts stripped, null where nothing is left."""
    item_ids = ids(column(frame, columns.item, file=file, key="item_columns.item"), file=file)
    twice = ~item_ids.is_first_distinct()
    if twice.any():
        row = int(twice.arg_max() or 0)
        raise DataRefused(file, f"item '{item_ids[row]}' stands there twice", cure="keep one row per item", row=row + 1)
    named = columns.model_fields_set
    found = {
        name: _optional(frame, getattr(columns, name), explicit=name in named, file=file)
        for name in ("title", "text", "categories", "year")
    }
    return pl.DataFrame(
        {
            "item_id": item_ids,
            "title": _clean(found["title"]),
            "text": _clean(found["text"]),
            "categories": _lists(found["categories"], separator),
            # Decoration: what is no year (ML-100K has a "V" for video) is no year, not an error.
            "year": found["year"].cast(pl.Float64, strict=False).cast(pl.Int64, strict=False),
        }
    )


def _optional(frame: pl.DataFrame, name: str, *, explicit: bool, file: Path) -> pl.Series:
    if name in frame.columns:
        return frame[name]
    if explicit and name:
        return column(frame, name, file=file, key="columns")
    return pl.Series(name, [None], dtype=pl.String).new_from_index(0, len(frame))


def _clean(series: pl.Series) -> pl.Series:
    text = series.cast(pl.String).str.strip_chars()
    return text.set(text == "", None)


def _lists(series: pl.Series, separator: str) -> pl.Series:
    lists = series if series.dtype == pl.List else series.cast(pl.String).str.split(separator)
    parts = pl.element().cast(pl.String).str.strip_chars()
    return lists.list.eval(parts.filter(parts != "")).fill_null([]).list.unique(maintain_order=True)


def _numbers(series: pl.Series, *, file: Path) -> pl.Series:
    numbers = series.cast(pl.Float64, strict=False)
    bad = numbers.is_null() & (series.cast(pl.String).str.strip_chars().fill_null("") != "")
    if bad.any():
        row = int(bad.arg_max() or 0)
        problem = f"'{series.name}' = {series[row]!r} is no number"
        raise DataRefused(file, problem, cure="write a number or leave it empty", row=row + 1)
    return numbers
