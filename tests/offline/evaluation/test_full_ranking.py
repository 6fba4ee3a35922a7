from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from model_store.bundle import Bundle
from model_store.encoders.sequence import SequenceConfig
from model_store.retrieval import Want
from model_store.staging import BundleParts
from offline.datasets import Interactions
from offline.evaluation import full_ranking as evaluation
from offline.evaluation.full_ranking import evaluate, summarise
from offline.evaluation.shuffled import shuffle_histories
from offline.finishing.golden_histories import golden_histories
from offline.splits.protocols import split
from offline.splits.sequences import Split

OpenBundle = Callable[[BundleParts], Bundle]


@pytest.fixture
def data(small_world: Interactions) -> Split:
    return split(small_world, "last-10")


@pytest.fixture
def bundle(data: Split, open_bundle: OpenBundle) -> Bundle:
    """Untrained; its window is so short that it moves within a user's ten test events."""
    torch.manual_seed(0)
    config = SequenceConfig(items=40, dim=16, blocks=1, heads=2, max_history=9, jump=4)
    encoder = config.build().eval()
    return open_bundle(
        BundleParts(
            family="sasrec",
            catalog=data.dataset.catalog,
            encoder=encoder,
            item_vectors_ND=encoder.item_vectors_ND.detach().clone(),
            golden_histories=golden_histories(data.dataset.train),
        )
    )


@pytest.mark.parametrize("seen_removed", [True, False])
def test_evaluation_is_retrieve_one_query_at_a_time(bundle: Bundle, data: Split, seen_removed: bool) -> None:
    scores = evaluate(bundle, data.test, seen_removed=seen_removed, k=10)
    for query, target in enumerate(data.test.targets):
        history = data.test.histories.history(query)
        want = Want(k=10, excluded_rows=np.unique(history.numpy()).astype(np.int64)) if seen_removed else Want(k=10)
        (found,) = bundle.retrieve(data.test.histories.select([query]), [want])
        assert scores.top_rows[query].tolist() == found.rows.tolist()
        hits = np.flatnonzero(found.rows == target)
        assert scores.ranks[query] == (hits[0] + 1 if len(hits) else 0)
        if seen_removed:
            assert not set(scores.top_rows[query].tolist()) & set(history.tolist())


def test_an_encoder_that_refuses_positions_is_asked_query_by_query(
    bundle: Bundle, data: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(bundle, data.test, seen_removed=True).top_rows

    def refuses(*_: object) -> None:
        raise ValueError("a residual with a shorter window")

    monkeypatch.setattr(bundle.encoder, "forward_positions", refuses)
    assert (evaluate(bundle, data.test, seen_removed=True).top_rows == expected).all()


def test_the_size_of_chunks_changes_nothing(bundle: Bundle, data: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = evaluate(bundle, data.test, seen_removed=True).top_rows
    monkeypatch.setattr(evaluation, "BUDGET", 20)
    monkeypatch.setattr(evaluation, "SEARCHED_TOGETHER", 7)
    assert (evaluate(bundle, data.test, seen_removed=True).top_rows == expected).all()


def test_metrics_carry_all_that_they_depend_on(bundle: Bundle, data: Split) -> None:
    scores = evaluate(bundle, data.test, seen_removed=True)
    metrics = {metric.name: metric for metric in summarise(scores, dataset=data.dataset, subset="test")}
    assert len(metrics) == 12
    for name, metric in metrics.items():
        assert metric.value == pytest.approx(scores.values(name).mean())
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low <= metric.value <= metric.high
    assert metrics["hr@10"].low != metrics["hr@10"].high
    metric = metrics["ndcg@10"]
    assert (metric.dataset, metric.protocol, metric.subset) == ("small-world", "last-10", "test")
    assert (metric.events, metric.users, metric.seen_removed) == (600, 60, True)
    assert metric.dataset_fingerprint == data.dataset.fingerprint


def test_shuffled_queries_are_read_one_by_one_and_right(bundle: Bundle, data: Split) -> None:
    shuffled = shuffle_histories(data.test, "all", seed=0)
    scores = evaluate(bundle, shuffled, seen_removed=False, k=5)
    found = bundle.retrieve(shuffled.histories, [Want(k=5)] * len(shuffled))
    assert scores.top_rows.tolist() == [candidates.rows.tolist() for candidates in found]
