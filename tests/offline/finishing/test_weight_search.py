from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from model_store.encoders.history import HistoryBatch
from offline.evaluation.validation import Validation
from offline.finishing.weight_search import choose_weights, simplex
from offline.splits.sequences import Queries

ITEMS = 30
EVERY = torch.ones(ITEMS, dtype=torch.bool)


@pytest.fixture
def validation() -> Validation:
    rng = np.random.default_rng(0)
    targets = rng.integers(ITEMS, size=300).astype(np.int32)
    return Validation(
        Queries(HistoryBatch.of([[0]] * 300), targets, np.arange(300, dtype=np.int32)), exclude_seen=False
    )


@pytest.fixture
def opinions(validation: Validation) -> Callable[[float, int], torch.Tensor]:
    """Scores [Q, N] that know the target as well as `signal` says."""

    def drawn(signal: float, seed: int) -> torch.Tensor:
        scores = torch.randn(300, ITEMS, generator=torch.Generator().manual_seed(seed))
        scores[torch.arange(300), validation.targets] += signal
        return scores

    return drawn


def test_the_simplex_has_every_share() -> None:
    assert list(simplex(2, 2)) == [(0, 2), (1, 1), (2, 0)]
    assert len(list(simplex(3, 4))) == len(set(simplex(3, 4))) == 15
    assert {sum(shares) for shares in simplex(3, 4)} == {4}


def test_independent_opinions_are_weighed_alike_whatever_their_scale(
    validation: Validation, opinions: Callable[[float, int], torch.Tensor]
) -> None:
    fusion = choose_weights([opinions(1, 1), 1000 * opinions(1, 2)], validation, steps=10, trained_N=EVERY)
    assert 0.3 <= fusion.weights[0] <= 0.7
    alone = fusion.ndcg10[(1.0, 0.0)], fusion.ndcg10[(0.0, 1.0)]
    assert fusion.ndcg10[fusion.weights] > max(alone) + 0.03
    assert fusion.on_queries[0] / fusion.on_queries[1] == pytest.approx(
        1000 * fusion.weights[0] / fusion.weights[1], rel=0.1
    )


def test_an_opinion_of_nothing_gets_no_weight(
    validation: Validation, opinions: Callable[[float, int], torch.Tensor]
) -> None:
    known = opinions(3, 1)
    fusion = choose_weights([known, torch.zeros_like(known)], validation, steps=4, trained_N=EVERY)
    assert fusion.weights == (1.0, 0.0)


def test_items_that_nobody_trained_on_do_not_set_the_scale(
    validation: Validation, opinions: Callable[[float, int], torch.Tensor]
) -> None:
    wild = opinions(1, 1)
    trained = EVERY.clone()
    trained[7] = False
    wild[:, 7] = 1e6
    fusion = choose_weights([wild, opinions(1, 2)], validation, steps=4, trained_N=trained)
    assert fusion.deviations[0] == pytest.approx(fusion.deviations[1], rel=0.1)


def test_what_the_parts_say_of_cold_items_moves_no_weight(
    validation: Validation, opinions: Callable[[float, int], torch.Tensor]
) -> None:
    cold = np.zeros(ITEMS, dtype=bool)
    cold[[3, 7]] = True
    asked = np.flatnonzero(~cold[validation.targets.numpy()])
    without = Validation(validation.queries.select(asked.tolist()), exclude_seen=False, cold_N=cold)
    parts = [opinions(1, seed)[asked] for seed in (1, 2)]
    trained = torch.from_numpy(~cold)
    before = choose_weights([part.clone() for part in parts], without, steps=10, trained_N=trained)
    parts[0][:, cold] = 50.0
    assert choose_weights(parts, without, steps=10, trained_N=trained) == before
    leaking = Validation(validation.queries.select(asked.tolist()), exclude_seen=False)
    assert choose_weights(parts, leaking, steps=10, trained_N=EVERY) != before
