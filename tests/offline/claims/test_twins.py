from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_store.bundle import Bundle
from model_store.staging import BundleParts
from offline.claims.claim import Finding
from offline.claims.inputs import TwinWins
from offline.claims.twin_events import TwinEvents, twin_wins
from offline.claims.twins import titles_apart
from offline.evaluation.metrics import Floats
from offline.families import ease
from offline.splits.sequences import Split

# A pair's popular one was chosen four times of five, as in the world.
POPULAR, RARE = 1, -1


def _measured(e4srec: Floats, contriever: Floats, events: TwinEvents) -> Finding:
    return titles_apart(TwinWins(events, {"e4srec": e4srec, "contriever": contriever}), draws=1_000, seed=0)


def _chance(share: float, events: TwinEvents, *, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    return (rng.random((5, len(events.events))) < share).astype(np.float64)


def test_a_family_that_tells_twins_apart_is_found(sequel_twins: TwinEvents) -> None:
    found = _measured(_chance(0.8, sequel_twins, seed=0), np.full((5, len(sequel_twins.events)), 0.5), sequel_twins)
    assert found.estimate is not None
    assert found.estimate.low > 0.2
    assert found.estimate.p < 0.01
    assert found.seeds == 5


def test_popularity_alone_tells_nothing_apart(sequel_twins: TwinEvents) -> None:
    """Unbalanced it wins four times of five, and the more popular one is the sequel in half of the pairs."""
    by_popularity = np.tile(0.5 * (1.0 + sequel_twins.popularity), (5, 1))
    found = _measured(by_popularity, np.full_like(by_popularity, 0.5), sequel_twins)
    assert found.details["popularity_alone"] == pytest.approx(0.8, abs=0.05)
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(0.0, abs=1e-9)
    first = sequel_twins.twins % 2 == 1
    for kind in (first, ~first):
        assert (sequel_twins.popularity[kind] == POPULAR).any()
        assert (sequel_twins.popularity[kind] == RARE).any()


def test_without_a_difference_it_stays_silent(sequel_twins: TwinEvents) -> None:
    found = _measured(_chance(0.6, sequel_twins, seed=1), _chance(0.6, sequel_twins, seed=2), sequel_twins)
    assert found.estimate is not None
    assert found.estimate.low < 0 < found.estimate.high


def test_pairs_are_of_events_whose_twin_could_be_recommended(sequels: Split, sequel_twins: TwinEvents) -> None:
    queries = sequels.test
    assert len(sequel_twins.events) > 300
    for event, twin in zip(sequel_twins.events, sequel_twins.twins, strict=True):
        assert queries.targets[event] // 2 == twin // 2
        assert twin not in queries.histories.history(int(event))
    assert not sequel_twins.identical.any()
    np.testing.assert_array_equal(sequel_twins.weights, 1.0)


def test_a_bundle_is_asked_for_both_scores(
    sequels: Split, sequel_twins: TwinEvents, tmp_path: Path, open_bundle: Callable[[BundleParts], Bundle]
) -> None:
    """EASE reads what led to the target; with one recommendation of weight 0 between twins it must beat chance."""
    bundle = open_bundle(ease.Recipe(lam=5, tau=1.0).train(sequels.dataset, tmp_path, {}).parts)
    wins = twin_wins(bundle, sequels.test, sequel_twins)
    assert set(np.unique(wins)) <= {0.0, 0.5, 1.0}
    assert wins.mean() > 0.9
    found = _measured(np.tile(wins, (5, 1)), np.full((5, len(wins)), 0.5), sequel_twins)
    assert found.estimate is not None
    assert found.estimate.low > 0.3


def test_nobody_asked_is_not_measured(sequel_twins: TwinEvents) -> None:
    assert titles_apart(None, draws=50, seed=0).estimate is None
    only = TwinWins(sequel_twins, {"e4srec": _chance(0.5, sequel_twins, seed=0)})
    assert "contriever were not asked" in titles_apart(only, draws=50, seed=0).missing
