"""Equal times: how many there are, and what is left of a figure when their order is random."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from offline.datasets.interactions import Interactions


def shuffle_ties(interactions: Interactions, seed: int) -> Interactions:
    """Events of one user with the same time, in random order; another fingerprint and name, for it is other data.

    Users without times keep the order of the file.
    """
    draws = np.random.default_rng(seed).random(len(interactions.users))
    draws[interactions.times_ms < 0] = 0.0
    order = np.lexsort((draws, interactions.times_ms, interactions.users))
    return replace(
        interactions,
        name=f"{interactions.name}-ties{seed}",
        fingerprint=hashlib.sha256(f"{interactions.fingerprint} ties {seed}".encode()).hexdigest(),
        item_rows=interactions.item_rows[order],
    )


def tied(interactions: Interactions) -> npt.NDArray[np.bool_]:
    """bool[E]: whether the user has another event of the same (known) time."""
    same = (np.diff(interactions.users) == 0) & (np.diff(interactions.times_ms) == 0)
    same &= interactions.times_ms[1:] >= 0
    either: npt.NDArray[np.bool_] = np.concatenate([[False], same]) | np.concatenate([same, [False]])
    return either
