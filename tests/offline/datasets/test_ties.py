from __future__ import annotations

import numpy as np

from offline.datasets import Interactions, load, shuffle_ties
from offline.datasets.config import Ml100kConfig
from offline.datasets.ties import tied


def test_only_events_of_one_user_and_time_change_places(ml_100k: Interactions) -> None:
    shuffled = shuffle_ties(ml_100k, seed=3)
    moved = shuffled.item_rows != ml_100k.item_rows
    assert moved.mean() > 0.3
    assert not moved[~tied(ml_100k)].any()
    keys = (ml_100k.users, ml_100k.times_ms)
    before = np.lexsort((ml_100k.item_rows, *reversed(keys)))
    after = np.lexsort((shuffled.item_rows, *reversed(keys)))
    assert (ml_100k.item_rows[before] == shuffled.item_rows[after]).all()


def test_users_without_times_keep_the_order_of_the_file(beauty: Interactions) -> None:
    untimed = beauty.times_ms < 0
    assert untimed.any()
    assert not tied(beauty)[untimed].any()
    assert (shuffle_ties(beauty, seed=0).item_rows[untimed] == beauty.item_rows[untimed]).all()


def test_the_seed_decides_and_the_data_has_another_name(ml_100k: Interactions) -> None:
    first, again, other = (shuffle_ties(ml_100k, seed=seed) for seed in (1, 1, 2))
    assert (first.item_rows == again.item_rows).all()
    assert (first.item_rows != other.item_rows).any()
    assert len({ml_100k.fingerprint, first.fingerprint, other.fingerprint}) == 3
    assert first.name == "ml-100k-ties1"
    assert load(Ml100kConfig(shuffle_ties=1)).fingerprint == first.fingerprint
