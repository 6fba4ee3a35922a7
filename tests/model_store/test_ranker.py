from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.manifest import Provenance
from model_store.preparing import prepare
from model_store.ranker import InterpolatedRanker, interpolated, reranked
from model_store.retrieval import Candidates, Want
from model_store.staging import BundleParts
from model_store.store import ModelStore

MakeRanker = Callable[..., InterpolatedRanker]
Open = Callable[[InterpolatedRanker | None], Bundle]
HISTORIES = HistoryBatch.of([[1, 2, 3], [5], list(range(20)), [7, 7, 9]])
WANTS = [
    Want(5, excluded_rows=np.array([1, 2, 3])),
    Want(20),
    Want(7, allowed_rows=np.array([3, 4, 8])),
    Want(4, categories=("rare", "even"), excluded_rows=np.arange(20)),
]


@pytest.fixture
def opened(store: ModelStore, tiny_parts: Callable[..., BundleParts], provenance: Provenance, tmp_path: Path) -> Open:
    """The tiny bundle with this ranker, as a service opens it: staged, copied, checked."""

    def of(ranker: InterpolatedRanker | None) -> Bundle:
        staged = store.stage(replace(tiny_parts(), ranker=ranker), provenance=provenance)
        return Bundle.open(prepare(staged.folder, tmp_path / "cache"))

    return of


@pytest.fixture(params=["verbalizer", "pointwise"])
def make(request: pytest.FixtureRequest) -> MakeRanker:
    made: MakeRanker = request.getfixturevalue(request.param)
    return made


def _answers(bundle: Bundle) -> list[tuple[list[int], list[float], bool]]:
    return [(f.rows.tolist(), f.scores.tolist(), f.exhausted) for f in bundle.retrieve(HISTORIES, WANTS)]


def test_weight_0_is_the_retriever_exactly(make: MakeRanker, opened: Open) -> None:
    assert _answers(opened(make(weight=0.0))) == _answers(opened(None))
    assert _answers(opened(make(weight=0.6))) != _answers(opened(None))


def test_saved_and_loaded_gives_the_same_answers(make: MakeRanker, opened: Open) -> None:
    bundle = opened(make())
    assert isinstance(bundle.ranker, InterpolatedRanker)
    assert bundle.manifest.ranker == bundle.ranker.config
    assert _answers(replace(bundle, ranker=make())) == _answers(bundle)


def test_filters_hold_and_the_rest_keeps_its_order_below_the_window(make: MakeRanker, opened: Open) -> None:
    bundle = opened(make(weight=0.9))
    plain = [f.rows.tolist() for f in replace(bundle, ranker=None).retrieve(HISTORIES, [replace_k(w) for w in WANTS])]
    for found, retrieved, want in zip(bundle.retrieve(HISTORIES, WANTS), plain, WANTS, strict=True):
        window = retrieved[:6]
        assert set(found.rows.tolist()) <= set(retrieved[: max(6, want.k)])
        assert set(found.rows.tolist()[:6]) <= set(window)
        assert found.rows.tolist()[6:] == retrieved[6 : want.k]
        assert (np.diff(found.scores) <= 0).all()
        assert not set(found.rows.tolist()) & set(want.excluded_rows.tolist())


def replace_k(want: Want) -> Want:
    return replace(want, k=max(want.k, 20))


def test_a_batch_answers_as_its_members(make: MakeRanker, opened: Open) -> None:
    bundle = opened(make())
    together = bundle.retrieve(HISTORIES, WANTS)
    for b, found in enumerate(together):
        (alone,) = bundle.retrieve(HISTORIES.select([b]), [WANTS[b]])
        assert alone.rows.tolist() == found.rows.tolist()
        np.testing.assert_allclose(alone.scores, found.scores, rtol=1e-5)


def test_the_score_is_the_stated_formula() -> None:
    retriever, opinion = torch.tensor([[3.0, 2.0, 0.0]]), torch.tensor([[0.0, 5.0, 9.0]])
    present = torch.tensor([[True, True, False]])
    got = interpolated(retriever, opinion, present_BK=present, weight=0.25)[0]
    expected = 0.75 * retriever[0, :2].double().log_softmax(0) + 0.25 * opinion[0, :2].double().log_softmax(0)
    torch.testing.assert_close(got[:2], expected)
    assert float(got[2]) == float("-inf")


def test_ties_go_to_the_lower_row_and_scores_fall_all_the_way() -> None:
    found = Candidates(Want(5), np.array([9, 4, 7, 2, 6]), np.array([5.0, 4.0, 3.0, 3.0, 1.0]), exhausted=False)
    ranked = reranked(found, np.array([-1.0, -1.0, -0.5]))
    assert ranked.rows.tolist() == [7, 4, 9, 2, 6]
    assert (np.diff(ranked.scores) <= 0).all()
    assert ranked.scores[3] < -1.0, "the first of the rest tied with the last of the window, and stays below it"
    assert ranked.scores[4] == pytest.approx(-3.0)
