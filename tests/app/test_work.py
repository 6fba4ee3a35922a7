from __future__ import annotations

import dataclasses

import numpy as np
import torch

from app.work import Recommendation
from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.ranker import Ranker
from model_store.retrieval import Want


class Backwards(Ranker):
    """A stand-in ranker: higher rows first."""

    depth = 20

    def score(self, histories: HistoryBatch, item_rows_BK: torch.Tensor, retriever_BK: torch.Tensor) -> torch.Tensor:
        return item_rows_BK.float()


def test_a_batch_with_equal_histories_answers_as_retrieve_does(beta: Bundle) -> None:
    histories = [[1, 2, 3], [5], [1, 2, 3], list(range(30)), [5]]
    wants = [Want(k, excluded_rows=np.array([k])) for k in (5, 6, 7, 8, 9)]
    entries = [Recommendation.of(beta, rows, want) for rows, want in zip(histories, wants, strict=True)]
    found = Recommendation.run(beta, entries)
    assert [one.encoded for one in found] == [3] * 5
    for one, expected in zip(found, beta.retrieve(HistoryBatch.of(histories), wants), strict=True):
        np.testing.assert_array_equal(one.candidates.rows, expected.rows)
        np.testing.assert_allclose(one.candidates.scores, expected.scores, rtol=1e-5)


def test_a_ranker_sees_the_history_of_each_entry(beta: Bundle) -> None:
    bundle = dataclasses.replace(beta, ranker=Backwards())
    histories = [[1, 2, 3], [5], [1, 2, 3]]
    wants = [Want(5), Want(5), Want(5, rerank=False)]
    entries = [Recommendation.of(bundle, rows, want) for rows, want in zip(histories, wants, strict=True)]
    found = [one.candidates for one in Recommendation.run(bundle, entries)]
    for one, expected in zip(found, bundle.retrieve(HistoryBatch.of(histories), wants), strict=True):
        np.testing.assert_array_equal(one.rows, expected.rows)
    assert found[0].rows.tolist() == sorted(found[0].rows.tolist(), reverse=True)
    assert found[2].rows.tolist() != found[0].rows.tolist()


def test_the_cost_is_that_of_the_window(beta: Bundle) -> None:
    longest = beta.manifest.max_history
    assert Recommendation.of(beta, list(range(40)), Want(1)).tokens <= longest
    assert Recommendation.of(beta, [1, 2], Want(1)).tokens == 2


class Costly(Backwards):
    def token_counts(self, histories: HistoryBatch) -> list[int]:
        return [100 * int(length) for length in histories.lengths]


def test_what_a_ranker_reads_is_counted_for_each_request_that_asks_for_it(beta: Bundle) -> None:
    bundle = dataclasses.replace(beta, ranker=Costly())
    asked, plain = (Recommendation.of(bundle, [1, 2], Want(1, rerank=rerank)) for rerank in (True, False))
    assert (asked.tokens, asked.own_tokens) == (202, 200)
    assert (plain.tokens, plain.own_tokens) == (2, 0)
    assert asked.key == plain.key, "they share the encoding of their history"


def test_only_the_window_makes_histories_equal(beta: Bundle) -> None:
    one, other = [1] * 9 + list(range(12)), [2] * 9 + list(range(12))
    assert Recommendation.of(beta, one, Want(1)).key == Recommendation.of(beta, other, Want(1)).key
