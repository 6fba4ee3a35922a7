"""What a recipe may see: training sequences and validation queries. Test events are not in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from model_store.catalog import ItemCatalog
from model_store.encoders.history import HistoryBatch


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """Q evaluation events: the history before each, and the item that was chosen next.

    histories: whole (not windowed), oldest first. targets: int32[Q]. users: int32[Q], user rows (clusters of the
    bootstrap; several queries may share a user).
    weights: float64[Q], what each event weighs in a mean; None weighs all alike.
    seen: what counts as seen where it is more than the history holds (items that a protocol hides from all models).
    """

    histories: HistoryBatch
    targets: npt.NDArray[np.int32]
    users: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float64] | None = None
    seen: HistoryBatch | None = None

    @property
    def seen_items(self) -> HistoryBatch:
        """What is removed as seen, per query."""
        return self.histories if self.seen is None else self.seen

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, indices: Sequence[int]) -> Queries:
        return Queries(
            self.histories.select(indices),
            self.targets[indices],
            self.users[indices],
            None if self.weights is None else self.weights[indices],
            None if self.seen is None else self.seen.select(indices),
        )


@dataclass(frozen=True, slots=True, eq=False)
class SequenceDataset:
    """Everything that may be fitted to, and the validation queries that choices are made on.

    fingerprint: of the data. split_fingerprint: of data and split together; parents must carry the same one.
    catalog: popularity counts training events only; its title is the one to show, "Title (year)" where a year is known.
    items: item_id, title, text (both nullable), categories, year (nullable) as the data gives them, in catalogue order.
    train: one history per user (possibly empty), the training split.
    validation: for each user the history equal to its training sequence, and the event after it (`temporal`: up to ten
        events between its two cuts, each with the true history up to it).
    cold_items: bool[N], hidden from everything fitted: in no sequence, softmax denominator, negative or statistic. All
        False but under `cold-items`.
    """

    name: str
    fingerprint: str
    split_fingerprint: str
    protocol: str
    catalog: ItemCatalog
    items: pl.DataFrame
    train: HistoryBatch
    validation: Queries
    exclude_seen: bool
    cold_items: npt.NDArray[np.bool_] = None  # type: ignore[assignment]  # replaced by "none" below

    def __post_init__(self) -> None:
        if self.cold_items is None:
            object.__setattr__(self, "cold_items", np.zeros(len(self.catalog), dtype=bool))

    @property
    def trained_items(self) -> npt.NDArray[np.bool_]:
        """bool [N]: the items with a training event. Whatever is fitted over items is fitted over these."""
        return self.catalog.popularity > 0


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A protocol applied to a data set. `dataset` goes to the recipe; `test` only to the evaluation."""

    dataset: SequenceDataset
    test: Queries
