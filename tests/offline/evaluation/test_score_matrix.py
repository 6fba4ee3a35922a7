from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.encoders.history import HistoryBatch
from offline.evaluation.score_matrix import evaluate_scores, top_rows
from offline.splits.sequences import Queries


@settings(deadline=None)
@given(st.lists(st.sampled_from([-np.inf, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=40), st.integers(1, 25))
def test_ties_go_to_the_lower_row_and_removed_items_never_appear(scores: list[float], k: int) -> None:
    allowed = [row for row, score in enumerate(scores) if score > -np.inf]
    expected = sorted(allowed, key=lambda row: (-scores[row], row))[:k]
    top = top_rows(np.array(scores), k).tolist()
    assert top == expected + [-1] * (k - len(expected))


@pytest.mark.parametrize("seen_removed", [True, False])
def test_seen_items_are_removed_when_asked(seen_removed: bool) -> None:
    histories = HistoryBatch.of([[0, 1], [2]])
    queries = Queries(histories, np.array([3, 0], dtype=np.int32), np.array([0, 1], dtype=np.int32))
    scores = evaluate_scores(
        lambda batch: np.tile([4.0, 3.0, 2.0, 1.0], (len(batch), 1)), queries, seen_removed=seen_removed, k=4
    )
    expected = [[2, 3, -1, -1], [0, 1, 3, -1]] if seen_removed else [[0, 1, 2, 3]] * 2
    assert scores.top_rows.tolist() == expected
    assert scores.ranks.tolist() == ([2, 1] if seen_removed else [4, 1])


def test_a_target_that_was_seen_cannot_be_hit_when_seen_items_are_removed() -> None:
    queries = Queries(HistoryBatch.of([[0, 1]]), np.array([0], dtype=np.int32), np.array([0], dtype=np.int32))
    assert evaluate_scores(lambda batch: np.ones((1, 3)), queries, seen_removed=True, k=3).ranks.tolist() == [0]


def test_no_query_gives_no_score() -> None:
    none = Queries(HistoryBatch.of([]), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32))
    assert len(evaluate_scores(lambda batch: np.ones((0, 3)), none, seen_removed=True, k=3).ranks) == 0
