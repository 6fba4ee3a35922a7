from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, Qrel, ScoredDoc, Success, nDCG

from offline.evaluation.metrics import EventScores, metric_names


def scores_of(top_rows: np.ndarray[tuple[int, int], np.dtype[np.int32]], targets: list[int]) -> EventScores:
    users = np.arange(len(targets), dtype=np.int32)
    return EventScores.of(users, np.array(targets, dtype=np.int32), top_rows=top_rows, seen_removed=True)


def test_ranks_and_gains_by_hand() -> None:
    top = np.array([[4, 2, 7], [1, 0, -1], [3, 5, 9]], dtype=np.int32)
    scores = scores_of(top, [7, 1, 8])
    assert scores.ranks.tolist() == [3, 1, 0]
    assert scores.values("hr@3").tolist() == [1, 1, 0]
    assert scores.values("hr@1").tolist() == [0, 1, 0]
    assert scores.values("mrr@3").tolist() == [1 / 3, 1, 0]
    assert scores.values("ndcg@3").tolist() == [0.5, 1, 0]


def test_padding_is_never_a_hit() -> None:
    assert scores_of(np.full((1, 3), -1, dtype=np.int32), [0]).ranks.tolist() == [0]


@pytest.mark.parametrize("name", ["ndcg@21", "ndcg@0", "ndcg", "recall@5", "hr@x"])
def test_unknown_metrics_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no metric"):
        scores_of(np.zeros((1, 20), dtype=np.int32), [0]).values(name)


def test_an_independent_library_agrees() -> None:
    rng = np.random.default_rng(0)
    top = np.stack([rng.permutation(40)[:20] for _ in range(200)]).astype(np.int32)
    scores = scores_of(top, rng.integers(0, 40, 200).tolist())
    qrels = [Qrel(str(q), str(target), 1) for q, target in enumerate(scores.targets)]
    run = [ScoredDoc(str(q), str(row), float(-place)) for q, rows in enumerate(top) for place, row in enumerate(rows)]
    theirs = {"hr": Success, "ndcg": nDCG, "mrr": RR}
    for name in metric_names(20):
        gain, _, cut = name.partition("@")
        measure = theirs[gain] @ int(cut)
        found = {each.query_id: each.value for each in ir_measures.iter_calc([measure], qrels, run)}
        expected = [found[str(q)] for q in range(len(top))]
        np.testing.assert_allclose(scores.values(name), expected, atol=1e-12, err_msg=name)
