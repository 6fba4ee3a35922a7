from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.encoders.history import HistoryBatch, window_start
from model_store.encoders.sequence import SequenceConfig
from offline.evaluation.position_reading import chunks, read_positions, windows_of
from offline.splits.sequences import Queries


def queries_of(sequence: list[int], held: int, user: int = 0) -> Queries:
    places = range(len(sequence) - held, len(sequence))
    return Queries(
        HistoryBatch.of([sequence[:place] for place in places]),
        np.array([sequence[place] for place in places], dtype=np.int32),
        np.full(held, user, dtype=np.int32),
    )


def test_one_window_per_distinct_start() -> None:
    queries = queries_of(list(range(40)), held=10)
    starts = [window_start(length, max_history=12, jump=4) for length in range(30, 40)]
    windows = windows_of(queries, max_history=12, jump=4)
    assert [window.start for window in windows] == sorted(set(starts))
    assert sum(len(window.last_items) for window in windows) == 10
    for window in windows:
        for query, last in window.last_items.items():
            assert window.rows[: last + 1].tolist() == list(range(starts[query], 30 + query))


def test_users_and_histories_that_do_not_grow_never_share() -> None:
    histories = HistoryBatch.of([[1, 2], [1, 2, 3], [1, 2, 3, 4], [9, 2, 3, 4, 5]])
    users = np.array([0, 0, 1, 1], dtype=np.int32)
    windows = windows_of(Queries(histories, users, users), max_history=100, jump=10)
    assert [list(window.last_items.items()) for window in windows] == [[(0, 1), (1, 2)], [(2, 3)], [(3, 4)]]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 10), st.integers(1, 5), st.integers(12, 30), st.integers(0, 2**31))
def test_positions_equal_single_histories(max_history: int, jump: int, length: int, seed: int) -> None:
    torch.manual_seed(seed % 1000)
    jump = min(jump, max_history)
    config = SequenceConfig(items=20, dim=8, blocks=1, heads=1, max_history=max_history, jump=jump)
    encoder = config.build().eval()
    sequence = np.random.default_rng(seed).integers(0, 20, length).tolist()
    queries = queries_of(sequence, held=10)
    with torch.inference_mode():
        single = encoder(queries.histories.windowed(max_history, jump))
    torch.testing.assert_close(read_positions(encoder, queries, budget=25), single, atol=1e-5, rtol=1e-4)


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 60))
def test_chunks_hold_every_index_once_within_the_budget(costs: list[int], budget: int) -> None:
    groups = list(chunks(costs, budget))
    assert sorted(index for group in groups for index in group) == list(range(len(costs)))
    assert all(len(group) == 1 or max(costs[i] for i in group) * len(group) <= budget for group in groups)
