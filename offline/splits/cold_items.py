"""`cold-items`: one item of ten is hidden from everything fitted, and only its events are asked about."""

from __future__ import annotations

import numpy as np

from offline.datasets.interactions import Interactions
from offline.datasets.refusal import DataRefused
from offline.splits.last_events import split_last, training_events
from offline.splits.sequences import Queries, Split
from offline.splits.training_split import Mask, dataset_of, histories_of

OF_EACH = 10


def split_cold(interactions: Interactions, protocol: str, *, seed: int, held: int) -> Split:
    """`last-10` without the items C, drawn by `seed`: not in training, no validation target, in no history.

    C keeps its catalogue rows, with popularity 0. Test: the `last-10` test events whose target is in C. Queries whose
    history held nothing but C are left out. Items of C that a user has chosen still count as seen.
    """
    whole = split_last(interactions, protocol, held=held)
    cold_N = draw_cold_items(whole, seed=seed)
    if not cold_N.any():
        raise DataRefused(
            interactions.name,
            f'protocol = "{protocol}" hides one item of each {OF_EACH}, and there are {len(cold_N)}',
            cure="choose another protocol",
        )
    dataset = dataset_of(
        interactions,
        protocol,
        train_E=cold_training_events(interactions, cold_N, held=held),
        validation=_without(whole.dataset.validation, cold_N, targets_cold=False),
        cold_items=cold_N,
    )
    test = _without(whole.test, cold_N, targets_cold=True)
    if len(test) == 0 or len(dataset.train.rows) == 0:
        raise DataRefused(
            interactions.name,
            f'protocol = "{protocol}" leaves no event to train on, or none to ask about',
            cure="choose another draw or another protocol",
        )
    return Split(dataset, test=test)


def draw_cold_items(whole: Split, *, seed: int) -> Mask:
    """bool[N]: one item drawn from each ten consecutive items by popularity in the training split."""
    order = whole.dataset.catalog.by_popularity
    tens = order[: len(order) // OF_EACH * OF_EACH].reshape(-1, OF_EACH)
    drawn = np.random.default_rng(seed).integers(OF_EACH, size=len(tens))
    cold_N = np.zeros(len(order), dtype=bool)
    cold_N[tens[np.arange(len(tens)), drawn]] = True
    return cold_N


def cold_training_events(interactions: Interactions, cold_N: Mask, *, held: int) -> Mask:
    """bool[E]."""
    kept: Mask = training_events(interactions, held=held) & ~cold_N[interactions.item_rows]
    return kept


def _without(queries: Queries, cold_N: Mask, *, targets_cold: bool) -> Queries:
    """The queries whose target is in C, or is not; histories drop C, and what was seen does not."""
    histories = [queries.histories.history(q).numpy() for q in range(len(queries))]
    read = [history[~cold_N[history]] for history in histories]
    kept = [q for q in range(len(queries)) if cold_N[queries.targets[q]] == targets_cold and len(read[q])]
    return Queries(
        histories=histories_of([read[q] for q in kept]),
        targets=queries.targets[kept],
        users=queries.users[kept],
        seen=histories_of([histories[q] for q in kept]),
    )
