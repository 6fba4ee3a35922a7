"""`temporal`: one cut through all users' time, as it would have been on that day."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from offline.datasets.interactions import Interactions
from offline.datasets.refusal import DataRefused
from offline.splits.sequences import Queries, Split
from offline.splits.training_split import Mask, dataset_of, histories_of

VALIDATION_FROM, TEST_FROM = 0.8, 0.9  # quantiles of all event times
MOST_EVENTS = 10  # of one user in a subset


def split_by_time(interactions: Interactions, protocol: str) -> Split:
    """Training: events before the 80th percentile of all times. Validation: from there to the 90th. Test: after it.

    A user gives up to ten queries to a subset, the first ones; each with the true history up to it, events of its own
    second excluded, and at least one item. Weights make a figure the mean per user, then over users. Events without a
    time sit out. DataRefused when a part would be empty.
    """
    times = interactions.times_ms
    known = times[times >= 0]
    if len(known) == 0:
        raise DataRefused(
            interactions.name,
            f'no event has the time that protocol = "{protocol}" needs',
            cure="choose another protocol",
        )
    start, end = (int(at) for at in np.quantile(known, [VALIDATION_FROM, TEST_FROM], method="higher"))
    validation = _queries(interactions, (times >= start) & (times < end))
    test = _queries(interactions, times >= end)
    dataset = dataset_of(interactions, protocol, train_E=temporal_training_events(interactions), validation=validation)
    for name, count in (("training", len(dataset.train.rows)), ("validation", len(validation)), ("test", len(test))):
        if count == 0:
            problem = f'protocol = "{protocol}" leaves no event with a history for {name}: too many share one time'
            raise DataRefused(interactions.name, problem, cure="choose another protocol")
    return Split(dataset, test=test)


def temporal_training_events(interactions: Interactions) -> Mask:
    """bool[E]: before the 80th percentile of all known times."""
    times = interactions.times_ms
    start = np.quantile(times[times >= 0], VALIDATION_FROM, method="higher")
    kept: Mask = (times >= 0) & (times < start)
    return kept


def buckets(data: Split) -> dict[str, Mask]:
    """Name -> bool[Q] over the test events: whether user and target have an event in training."""
    known_user = data.dataset.train.lengths.numpy()[data.test.users] > 0
    known_item = data.dataset.trained_items[data.test.targets]
    return {
        "user new": ~known_user,
        "user known": known_user,
        "item new": ~known_item,
        "item known": known_item,
    }


def _queries(interactions: Interactions, asked_E: Mask) -> Queries:
    """The first ten of a user's asked events that have an event of an earlier second before them."""
    users, rows, seconds = interactions.users, interactions.item_rows, interactions.times_ms // 1000
    new_user = np.diff(users, prepend=-1) != 0
    first_E = _starts(new_user)  # the first event of the user
    before_E = _starts(new_user | (np.diff(seconds, prepend=-1) != 0))  # the first event of the user's second
    taken: Counter[int] = Counter()
    places = []
    for event in np.flatnonzero(asked_E & (before_E > first_E)).tolist():
        user = int(users[event])
        if taken[user] < MOST_EVENTS:
            taken[user] += 1
            places.append(event)
    return Queries(
        histories=histories_of([rows[first_E[event] : before_E[event]] for event in places]),
        targets=rows[places],
        users=users[places],
        weights=np.array([1 / taken[int(users[event])] for event in places], dtype=np.float64),
    )


def _starts(begins_E: Mask) -> npt.NDArray[np.intp]:
    """Of each event: where the last group before or at it begins."""
    return np.maximum.accumulate(np.where(begins_E, np.arange(len(begins_E)), 0))
