"""Raw data -> Interactions."""

from __future__ import annotations

from offline.datasets import ml_100k, recbole, tables
from offline.datasets.config import BUILT_IN, DataConfig, Ml100kConfig, RecBoleConfig, TablesConfig
from offline.datasets.interactions import Interactions
from offline.datasets.refusal import DataRefused
from offline.datasets.ties import shuffle_ties

__all__ = ["BUILT_IN", "DataConfig", "DataRefused", "Interactions", "load", "shuffle_ties"]


def load(data: str | DataConfig) -> Interactions:
    """A built-in data set by its name, or any that a [data] section describes."""
    if isinstance(data, str):
        if data not in BUILT_IN:
            names = ", ".join(BUILT_IN)
            raise DataRefused(data, f"no data set has this name (there are: {names})", cure="describe it in a run file")
        data = BUILT_IN[data]
    match data:
        case Ml100kConfig():
            interactions = ml_100k.load(data)
        case TablesConfig():
            interactions = tables.load(data)
        case RecBoleConfig():
            interactions = recbole.load(data)
    return interactions if data.shuffle_ties is None else shuffle_ties(interactions, data.shuffle_ties)
