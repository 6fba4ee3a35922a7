"""The items of one bundle: id <-> dense row, and what a person may read about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from model_store.retrieval import Rows

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "item_id": pl.String,
    "title": pl.String,
    "text": pl.String,
    "categories": pl.List(pl.String),
    "popularity": pl.Int64,
}


class ItemCatalog:
    """An immutable table, one line per item; the item's row is its position.

    Columns: item_id (unique, never null), title (the id where the data has none), text (nullable), categories (list,
    may be empty), popularity (events in the training split); map_x and map_y (nullable float32) where
    the bundle has a map.
    """

    def __init__(self, frame: pl.DataFrame) -> None:
        missing = [name for name in SCHEMA if name not in frame.columns]
        if missing:
            raise ValueError(f"catalogue lacks column(s) {', '.join(missing)}")
        self.frame = frame.with_columns(pl.col(name).cast(kind) for name, kind in SCHEMA.items())
        self.ids: list[str] = self.frame["item_id"].to_list()
        self._row_of = {item_id: row for row, item_id in enumerate(self.ids)}
        if len(self._row_of) != len(self.ids):
            raise ValueError("catalogue has an item id twice")

    @classmethod
    def read(cls, file: Path) -> ItemCatalog:
        return cls(pl.read_parquet(file, memory_map=False))

    def write(self, file: Path) -> None:
        self.frame.write_parquet(file, compression="zstd")

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, item_id: str) -> int | None:
        return self._row_of.get(item_id)

    def rows(self, item_ids: Iterable[str]) -> tuple[list[int], list[str]]:
        """Rows of the known ids in the given order, and the ids that this catalogue does not know."""
        known: list[int] = []
        unknown: list[str] = []
        for item_id in item_ids:
            row = self._row_of.get(item_id)
            if row is None:
                unknown.append(item_id)
            else:
                known.append(row)
        return known, unknown

    def derive(self) -> None:
        """What is otherwise derived by the first who asks for it: tens of milliseconds for 100,000 items."""
        _ = self._titles, self._folded_titles, self.popularity, self.by_popularity, self.categories

    def titles(self, rows: Sequence[int] | Rows) -> list[str]:
        return [self._titles[int(row)] for row in rows]

    def describe(self, row: int) -> dict[str, object]:
        """item_id, title, text, categories, popularity of one item."""
        return self.frame.row(row, named=True)

    @cached_property
    def _titles(self) -> list[str]:
        return self.frame["title"].to_list()

    @cached_property
    def popularity(self) -> Rows:
        """int64[N]."""
        return self.frame["popularity"].to_numpy().astype(np.int64)

    @cached_property
    def by_popularity(self) -> Rows:
        """All rows, most popular first, ties by row."""
        return np.lexsort((np.arange(len(self)), -self.popularity)).astype(np.int64)

    @cached_property
    def categories(self) -> dict[str, Rows]:
        """Category -> its rows, ascending."""
        exploded = (
            self.frame.select(pl.int_range(pl.len()).alias("row"), "categories")
            .explode("categories")
            .drop_nulls("categories")
            .group_by("categories", maintain_order=True)
            .agg("row")
        )
        return {name: np.asarray(rows, dtype=np.int64) for name, rows in exploded.iter_rows()}

    def rows_in(self, categories: Sequence[str]) -> Rows:
        """Rows that carry any of the categories, ascending; unknown categories hold nothing."""
        found = [self.categories[name] for name in categories if name in self.categories]
        if len(found) == 1:
            return found[0]
        carries_N = np.zeros(len(self), dtype=bool)  # without sorting: it may be half of the catalogue
        for rows in found:
            carries_N[rows] = True
        return np.flatnonzero(carries_N)

    @cached_property
    def _folded_titles(self) -> pl.Series:
        return self.frame["title"].str.to_lowercase()

    def search_titles(self, text: str, limit: int) -> list[int]:
        """Rows whose title holds every word of `text` (case folded), most popular first."""
        mask = pl.Series([True]).new_from_index(0, len(self))
        for word in text.lower().split():
            mask = mask & self._folded_titles.str.contains(word, literal=True)
        rows = np.flatnonzero(mask.to_numpy())
        order = np.lexsort((rows, -self.popularity[rows]))
        return [int(row) for row in rows[order][:limit]]
