"""A user's last events are held out: `last-10` and `leave-one-out`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from offline.datasets.interactions import Interactions
from offline.datasets.refusal import DataRefused
from offline.splits.sequences import Queries, Split
from offline.splits.training_split import Mask, Rows, dataset_of, histories_of


def split_last(interactions: Interactions, protocol: str, *, held: int) -> Split:
    """Per user: the last `held` events are test, the one before them validation, all before that training.

    Every test event has the true history before it, validation and earlier test events included. Users with fewer
    than held + 2 events (nothing would be left to train on) stay in training whole and give no queries; DataRefused
    when all users are such.
    """
    sequences = interactions.sequences()
    users = eligible_users(sequences, interactions.name, protocol=protocol, held=held)
    dataset = dataset_of(
        interactions,
        protocol,
        train_E=training_events(interactions, held=held),
        validation=_queries(sequences, users, range(held + 1, held, -1)),
    )
    return Split(dataset, test=_queries(sequences, users, range(held, 0, -1)))


def training_events(interactions: Interactions, *, held: int) -> Mask:
    """bool[E]: all but each eligible user's last held + 1."""
    counts = np.bincount(interactions.users, minlength=len(interactions.user_ids))
    from_end_E = counts.cumsum()[interactions.users] - np.arange(len(interactions.users))
    kept: Mask = (from_end_E > held + 1) | (counts[interactions.users] < held + 2)
    return kept


def eligible_users(sequences: list[Rows], name: str, *, protocol: str, held: int) -> npt.NDArray[np.intp]:
    """User rows with at least held + 2 events."""
    (users,) = np.nonzero([len(sequence) >= held + 2 for sequence in sequences])
    if len(users) == 0:
        longest = max(map(len, sequences), default=0)
        raise DataRefused(
            name,
            f'no user has the {held + 2} events that protocol = "{protocol}" needs; the longest history has {longest}',
            cure="choose another protocol, or lower `min_rating` or `k_core`",
        )
    return users


def _queries(sequences: list[Rows], users: npt.NDArray[np.intp], from_end: range) -> Queries:
    """from_end: positions of the targets, 1 = the last event."""
    places = [(sequences[user], len(sequences[user]) - back) for user in users for back in from_end]
    return Queries(
        histories=histories_of([sequence[:place] for sequence, place in places]),
        targets=np.array([sequence[place] for sequence, place in places], dtype=np.int32),
        users=np.repeat(users, len(from_end)).astype(np.int32),
    )
