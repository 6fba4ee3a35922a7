"""Items added, changed and removed since a bundle was made: immutable, and searched together with the bundle.

Every change takes a new row number, which is never used again: what is cached by rows misses by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from app.item_records import ItemRecord
from app.item_records import Sequence as Number
from model_store.catalog import ItemCatalog
from model_store.index_memory import Floats
from model_store.item_index import ItemIndex
from model_store.retrieval import Rows, Want


@dataclass(frozen=True, slots=True, eq=False)
class OverlayItem:
    """vector_D: float32. popularity: of the bundle's item that it replaces, else 0."""

    row: int
    record: ItemRecord
    vector_D: Floats
    popularity: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """vector_D: None for a tombstone, for what yields to the bundle, and for what cannot be placed (`hidden` tells
    whether the bundle's own item is out of sight then). record None: nothing is known of the item any more."""

    item_id: str
    record: ItemRecord | None
    vector_D: Floats | None = None

    @property
    def hides(self) -> bool:
        return self.vector_D is not None or (self.record is not None and self.record.removed)


@dataclass(frozen=True, eq=False)
class Overlay:
    """items: by id, in order of rows. hidden: rows of the bundle that are not to be seen, ascending, unique.

    numbers: item id -> sequence number of the change that this overlay has taken in, shown or not.
    next_row: of the next change; 0 before the first one.
    """

    next_row: int = 0
    items: Mapping[str, OverlayItem] = field(default_factory=dict)
    hidden: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    numbers: Mapping[str, Number] = field(default_factory=dict)

    @property
    def changes_nothing(self) -> bool:
        return not self.items and not len(self.hidden)

    def changed(self, catalog: ItemCatalog, changes: Iterable[Change]) -> Overlay:
        """The overlay after `changes`, in their order. catalog: of the bundle. Changes nothing here."""
        items, numbers, hidden = dict(self.items), dict(self.numbers), set(self.hidden.tolist())
        next_row = self.next_row or len(catalog)
        for change in changes:
            replaced = catalog.row(change.item_id)
            items.pop(change.item_id, None)
            if replaced is not None:
                (hidden.add if change.hides else hidden.discard)(replaced)
            if change.record is None:
                numbers.pop(change.item_id, None)
                continue
            numbers[change.item_id] = change.record.sequence
            if change.vector_D is not None:
                popularity = 0 if replaced is None else int(catalog.popularity[replaced])
                items[change.item_id] = OverlayItem(next_row, change.record, change.vector_D, popularity)
            next_row += 1
        return replace(
            self, next_row=next_row, items=items, numbers=numbers, hidden=np.array(sorted(hidden), dtype=np.int64)
        )

    def has(self, record: ItemRecord) -> bool:
        return self.numbers.get(record.item_id) == record.sequence

    @cached_property
    def at_row(self) -> dict[int, OverlayItem]:
        return {item.row: item for item in self.items.values()}

    @cached_property
    def rows(self) -> Rows:
        """int64[M], ascending."""
        return np.array(sorted(self.at_row), dtype=np.int64)

    @cached_property
    def vectors_MD(self) -> Floats:
        """float32, in the order of `rows`; only where there is an item."""
        return np.stack([self.at_row[row].vector_D for row in self.rows.tolist()])

    @cached_property
    def index(self) -> ItemIndex:
        """Exact search in the added items, numbered from 0 in the order of `rows`."""
        return ItemIndex.of(self.vectors_MD)

    @cached_property
    def popularity(self) -> npt.NDArray[np.int64]:
        """int64[M], in the order of `rows`."""
        return np.array([self.at_row[row].popularity for row in self.rows.tolist()], dtype=np.int64)

    @cached_property
    def _categories(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for place, row in enumerate(self.rows.tolist()):
            for name in dict.fromkeys(self.at_row[row].record.categories):
                found.setdefault(name, []).append(place)
        return found

    def derive(self) -> None:
        """What is otherwise derived by the first who asks for it."""
        if self.items:
            _ = self.index, self.popularity, self._categories

    def places(self, rows: Rows) -> Rows:
        """Places within `rows` of those row numbers that are here, ascending and unique."""
        return np.flatnonzero(np.isin(self.rows, rows))

    def allowed(self, want: Want) -> Rows | None:
        """Places that the want's allow list and categories leave; None = all."""
        places = None if want.allowed_rows is None else self.places(want.allowed_rows)
        if want.categories is None:
            return places
        found = {place for name in want.categories for place in self._categories.get(name, ())}
        inside = np.array(sorted(found), dtype=np.int64)
        return inside if places is None else np.intersect1d(inside, places)

    def search_titles(self, words: Sequence[str]) -> list[int]:
        """Rows of the items whose title holds every one of the lower-case words."""
        found = (row for row in self.rows.tolist() if _holds(self.at_row[row].record.title.lower(), words))
        return list(found)


def _holds(title: str, words: Sequence[str]) -> bool:
    return all(word in title for word in words)
