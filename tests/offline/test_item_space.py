from __future__ import annotations

import numpy as np

from model_store.encoders.history import HistoryBatch
from offline.item_space import co_choice_space


def test_items_chosen_together_are_near_and_others_far() -> None:
    rng = np.random.default_rng(0)
    # Items 0 to 9 go together, 10 to 19 too; 20 is always alone, 21 never chosen.
    train = [(rng.permutation(10)[:5] + 10 * (user % 2)).tolist() for user in range(100)] + [[20]]
    space = co_choice_space(HistoryBatch.of(train), 22, dim=4)
    cosines = space @ space.T
    within = cosines[:10, :10][~np.eye(10, dtype=bool)]
    assert within.min() > cosines[:10, 10:20].max() + 0.3
    assert (space[20:] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(space[:20], axis=1), 1, rtol=1e-5)


def test_the_space_is_the_same_every_time_and_exists_without_pairs() -> None:
    train = HistoryBatch.of([[0, 1, 2], [1, 2], [0, 3]])
    assert (co_choice_space(train, 5, dim=2) == co_choice_space(train, 5, dim=2)).all()
    assert (co_choice_space(HistoryBatch.of([[0], [1]]), 3, dim=2) == 0).all()
    assert co_choice_space(HistoryBatch.of([[0]]), 1, dim=2).shape == (1, 2)
