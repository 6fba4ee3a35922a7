from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from model_store.encoders.history import HistoryBatch
from offline.training.windows import cuts, input_and_target, inputs_and_targets, shuffled_batches, training_windows


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


@given(st.lists(st.integers(2, 60), min_size=1, max_size=200), st.integers(1, 200))
def test_batches_of_alike_many_targets_hold_every_window_once(lengths: list[int], targets: int) -> None:
    windows = HistoryBatch.of([list(range(n)) for n in lengths])
    batches = list(shuffled_batches(windows, 64, seed=1, epoch=0, targets=targets))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(batches)
    # A window is never cut: a batch may miss the mark by one at either end.
    longest = max(lengths) - 1
    assert all(sum(lengths[index] - 1 for index in batch) <= 1.5 * targets + 2 * longest for batch in batches)


def test_where_lengths_differ_batches_of_targets_weigh_targets_alike() -> None:
    windows = HistoryBatch.of([list(range(3 if index % 4 else 51)) for index in range(800)])
    sums = [
        [int((windows.lengths[batch] - 1).sum()) for batch in shuffled_batches(windows, 32, seed=0, epoch=0, **by)]
        for by in ({}, {"targets": 432})
    ]
    assert max(sums[0]) > 20 * min(sums[0]), "long ones together, short ones together"
    assert max(sums[1]) < 1.3 * min(sums[1])
    assert 0.8 * 432 < sum(sums[1]) / len(sums[1]) < 1.25 * 432
    assert abs(len(sums[1]) - len(sums[0])) <= 2, "as many steps as batches of the mean number of windows"


def test_cuts_end_in_their_target_and_are_drawn_anew_each_epoch() -> None:
    train = HistoryBatch.of([torch.arange(40), torch.arange(100, 103), torch.arange(1), torch.arange(0)])
    first, again, other = (cuts(train, 5, per_user=4, seed=1, epoch=epoch) for epoch in (0, 0, 1))
    assert torch.equal(first.rows, again.rows)
    assert not torch.equal(first.rows, other.rows)
    inputs, targets_B = input_and_target(first)
    # Four of the long sequence, both of the one with three items, none of those that are too short.
    assert (targets_B < 100).sum() == 4
    assert targets_B[targets_B >= 100].tolist() == [101, 102]
    assert len(set(targets_B.tolist())) == 6
    assert int(inputs.lengths.max()) == 5
    for b, target in enumerate(targets_B.tolist()):
        history = inputs.history(b).tolist()
        assert history == list(range(target - len(history), target))
