"""Events whose target has a near-identical twin, and whether a bundle ranks the chosen one first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_store.bundle import Bundle
from offline.claims.similar_titles import normalised, twin_pairs
from offline.evaluation.full_ranking import query_vectors
from offline.evaluation.metrics import Floats
from offline.splits.sequences import Queries, SequenceDataset

Rows = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class TwinEvents:
    """P pairs of an event and a twin of its target; an event with n twins has n pairs, each of weight 1 / n.

    events: int32[P], query numbers. twins: int32[P], item rows. identical: bool[P], same normalised title.
    popularity: int8[P], 1 where the target has more training events than the twin, -1 where fewer, 0 equal.
    users: int32[P].
    """

    events: Rows
    twins: Rows
    identical: npt.NDArray[np.bool_]
    popularity: npt.NDArray[np.int8]
    users: Rows

    @property
    def weights(self) -> Floats:
        """float64[P]: 1 / number of the event's pairs of the same kind (identical titles or not)."""
        keys = self.events.astype(np.int64) * 2 + self.identical
        _, kind_P, counts = np.unique(keys, return_inverse=True, return_counts=True)
        weights_P: Floats = 1.0 / counts[kind_P]
        return weights_P


def twin_events(dataset: SequenceDataset, queries: Queries) -> TwinEvents:
    """Every event whose target has a twin that could be recommended: one in the history could not, where seen items
    are removed."""
    titles = dataset.items["title"].fill_null("").to_list()
    items, twins = twin_pairs(titles)
    starts = np.searchsorted(items, np.arange(len(titles) + 1))
    pairs: list[tuple[int, int]] = []
    for event, target in enumerate(queries.targets):
        mine = twins[starts[target] : starts[target + 1]]
        if dataset.exclude_seen and len(mine):
            mine = mine[~np.isin(mine, queries.seen_items.history(event).numpy())]
        pairs += [(event, int(twin)) for twin in mine]
    events_P, twins_P = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
    names = np.array([normalised(title) for title in titles])
    targets_P, counts = queries.targets[events_P], dataset.catalog.popularity.astype(np.int64)
    return TwinEvents(
        events=events_P,
        twins=twins_P,
        identical=names[targets_P] == names[twins_P],
        popularity=np.sign(counts[targets_P] - counts[twins_P]).astype(np.int8),
        users=queries.users[events_P],
    )


def twin_wins(bundle: Bundle, queries: Queries, events: TwinEvents) -> Floats:
    """float64[P]: 1 where the bundle scores the target above its twin, .5 where both score the same, else 0."""
    which, event_P = np.unique(events.events, return_inverse=True)
    chosen = Queries(queries.histories.select(which.tolist()), queries.targets[which], queries.users[which])
    vectors_PD = query_vectors(bundle, chosen).numpy()[event_P]
    items_ND = bundle.index.vectors_ND
    targets_P = queries.targets[events.events]
    difference_P = (vectors_PD * (items_ND[targets_P] - items_ND[events.twins])).sum(axis=1)
    wins_P: Floats = 0.5 * (1.0 + np.sign(difference_P).astype(np.float64))
    return wins_P
