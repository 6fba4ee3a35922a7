"""What is known of an event from the training split alone: how popular its target is, what its history points to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model_store.encoders.history import HistoryBatch
from offline.evaluation.metrics import Floats
from offline.item_space import co_choice_space
from offline.splits.sequences import Queries, SequenceDataset

OLDER_THAN = 10
RECENT = 3
LEAST_HISTORY = 20


def target_counts(dataset: SequenceDataset, queries: Queries) -> npt.NDArray[np.int64]:
    """int64[E]: training events of each event's target."""
    counts: npt.NDArray[np.int64] = dataset.catalog.popularity[queries.targets].astype(np.int64)
    return counts


def equal_masses(values_E: Floats | npt.NDArray[np.int64], groups: int) -> npt.NDArray[np.int64]:
    """int64[E]: 0 .. groups - 1, rising with the value; masses as equal as can be where equal values share a group."""
    order = np.sort(values_E)
    edges = [order[max(round(len(order) * g / groups), 1) - 1] for g in range(1, groups)] if len(order) else []
    return np.searchsorted(np.array(edges), values_E, side="left").astype(np.int64)


def long_term_index(dataset: SequenceDataset, queries: Queries) -> Floats:
    """float64[E]: the target's largest cosine with items older than the last 10, minus that with the last 3.

    In the space of what users chose together in training. NaN for histories shorter than 20, and for a target that
    training does not know.
    """
    space_ND = co_choice_space(dataset.train, len(dataset.catalog)).astype(np.float64)
    return np.array([_long_term(space_ND, queries.histories, e, int(queries.targets[e])) for e in range(len(queries))])


def _long_term(space_ND: Floats, histories: HistoryBatch, event: int, target: int) -> float:
    rows = histories.history(event).numpy()
    if len(rows) < LEAST_HISTORY or not space_ND[target].any():
        return float("nan")
    cosines_T = space_ND[rows] @ space_ND[target]
    return float(cosines_T[:-OLDER_THAN].max() - cosines_T[-RECENT:].max())
