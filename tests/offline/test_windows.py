from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from model_store.encoders.history import HistoryBatch
from offline.windows import inputs_and_targets, shuffled_batches, training_windows


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 9))
def test_every_item_but_the_first_is_a_target_once(lengths: list[int], max_history: int) -> None:
    train = HistoryBatch.of([torch.arange(n) + 100 * user for user, n in enumerate(lengths)])
    windows = training_windows(train, max_history)
    if len(windows):
        assert int(windows.lengths.max()) <= max_history + 1
    _, targets_T = inputs_and_targets(windows)
    expected = [100 * user + place for user, n in enumerate(lengths) for place in range(1, n)]
    assert sorted(targets_T.tolist()) == expected


def test_targets_follow_their_inputs() -> None:
    inputs, targets_T = inputs_and_targets(HistoryBatch.of([[1, 2, 3], [7, 8]]))
    assert inputs.rows.tolist() == [1, 2, 7]
    assert targets_T.tolist() == [2, 3, 8]


def test_batches_hold_every_window_once_in_an_order_of_their_epoch() -> None:
    windows = HistoryBatch.of([list(range(2 + index % 9)) for index in range(100)])
    first, again, other = (list(shuffled_batches(windows, 4, seed=1, epoch=epoch)) for epoch in (0, 0, 1))
    assert first == again
    assert first != other
    for batches in (first, other):
        assert sorted(index for batch in batches for index in batch) == list(range(100))
        assert {len(batch) for batch in batches} == {4}
    # Batches of like length out of 64 drawn windows: hardly any padding, and short ones do not come first.
    lengths = windows.lengths
    assert all(int(lengths[batch].max() - lengths[batch].min()) <= 3 for batch in first)
    means = [float(lengths[batch].float().mean()) for batch in first]
    assert means != sorted(means)
