"""What is fitted to, what choices are made on, and what is looked at once: the protocols by name."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from offline.datasets.interactions import Interactions
from offline.splits.cold_items import cold_training_events, split_cold
from offline.splits.last_events import split_last, training_events
from offline.splits.sequences import Split
from offline.splits.temporal import split_by_time, temporal_training_events
from offline.splits.training_split import Mask
from offline.splits.training_split import catalog_of as catalog_of
from offline.splits.training_split import histories_of as histories_of

Protocol = Literal["last-10", "leave-one-out", "temporal", "cold-items-0", "cold-items-1", "cold-items-2"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
# Events of a user that test holds; cold-items holds those of last-10 whose target is cold.
HELD: dict[Protocol, int] = {"last-10": 10, "leave-one-out": 1}
# The draw of each.
COLD: dict[Protocol, int] = {"cold-items-0": 0, "cold-items-1": 1, "cold-items-2": 2}


def split(interactions: Interactions, protocol: Protocol) -> Split:
    """DataRefused when the data leave a part of it empty."""
    if protocol == "temporal":
        return split_by_time(interactions, protocol)
    if protocol in COLD:
        return split_cold(interactions, protocol, seed=COLD[protocol], held=HELD["last-10"])
    return split_last(interactions, protocol, held=HELD[protocol])


def fitted_events(interactions: Interactions, protocol: Protocol) -> Mask:
    """bool[E]: the events that `split` puts into training."""
    if protocol == "temporal":
        return temporal_training_events(interactions)
    if protocol in COLD:
        cold_N = split(interactions, protocol).dataset.cold_items
        return cold_training_events(interactions, cold_N, held=HELD["last-10"])
    return training_events(interactions, held=HELD[protocol])


def describe_split(data: Split) -> str:
    """What a protocol makes of the data, in lines of `label  value` for a terminal."""
    dataset = data.dataset
    figures = {
        "training": f"{len(dataset.train.rows):,} events of {int((dataset.train.lengths > 0).sum()):,} users",
        "validation": f"{len(dataset.validation):,} events of {len(np.unique(dataset.validation.users)):,} users",
        "test": f"{len(data.test):,} events of {len(np.unique(data.test.users)):,} users",
    }
    if dataset.cold_items.any():
        figures["cold items"] = f"{int(dataset.cold_items.sum()):,}"
    width = max(map(len, figures))
    return "\n".join([dataset.protocol, *(f"  {label:<{width}}  {value}" for label, value in figures.items())])
