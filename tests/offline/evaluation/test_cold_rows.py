from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_store.encoders.history import HistoryBatch
from offline.datasets import Interactions
from offline.evaluation.cold_rows import COLD_ROWS, Random, TextNeighbours, cold_rows
from offline.evaluation.score_matrix import evaluate_scores
from offline.language.language_models import LanguageModel
from offline.splits.protocols import split


def test_neighbours_by_hand() -> None:
    texts = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    scores = TextNeighbours(texts, tau=2.0)(HistoryBatch.of([[0, 1]]))
    old = np.exp(-1 / 2)
    np.testing.assert_allclose(scores, [[old, 1, 0.6 * old + 0.8]], rtol=1e-6)


def test_chance_is_the_same_for_the_same_history_and_hits_by_chance(small_world: Interactions) -> None:
    data = split(small_world, "cold-items-0")
    row = Random(40)
    assert np.array_equal(row(data.test.histories.select([3, 5]))[1], row(data.test.histories.select([5]))[0])
    scores = evaluate_scores(row, data.test, seen_removed=False, k=1, allowed_N=data.dataset.cold_items)
    assert scores.mean("hr@1") == pytest.approx(1 / 4, abs=0.12)
    assert data.dataset.cold_items[scores.top_rows].all()


def test_rows_exist_and_rank_only_what_is_allowed(small_world: Interactions, tiny_base: Path) -> None:
    data = split(small_world, "cold-items-0")
    rows = cold_rows(data.dataset, lm=LanguageModel(base=str(tiny_base), keep_layers=2))
    assert tuple(rows) == COLD_ROWS
    for scorer in rows.values():
        assert np.isfinite(scorer(data.test.histories)).all()
