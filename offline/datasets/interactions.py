"""The one form that every data set is brought into."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """Who chose what, when; sorted stably by (user, time).

    name: the data set's name. fingerprint: sha256 over ids, events and item text; names the data in every figure.
    user_ids: user row -> id, in order of first appearance.
    items: item_id, title, text (nullable), categories (list), year (nullable Int64); the position is the item row
        (order of the item table, then first appearance). Popularity is not here: it belongs to a split.
    users, item_rows: int32[E]. times_ms: int64[E]; -1 where the data has none (such a user sits out `temporal`).
    exclude_seen: whether items of a user's history are removed when recommending (a property of the data).
    """

    name: str
    fingerprint: str
    user_ids: tuple[str, ...]
    items: pl.DataFrame
    users: npt.NDArray[np.int32]
    item_rows: npt.NDArray[np.int32]
    times_ms: npt.NDArray[np.int64]
    exclude_seen: bool = True

    def sequences(self) -> list[npt.NDArray[np.int32]]:
        """Item rows per user row, oldest first (views)."""
        bounds = np.searchsorted(self.users, np.arange(len(self.user_ids) + 1))
        return [self.item_rows[start:end] for start, end in pairwise(bounds)]
