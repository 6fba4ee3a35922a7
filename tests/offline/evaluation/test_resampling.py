from __future__ import annotations

import numpy as np
import pytest

from offline.evaluation.resampling import Figure, least, mean_of, resample

USERS = np.repeat(np.arange(60, dtype=np.int32), 5)


def _scores(level: float, *, rng: np.random.Generator, runs: int = 5) -> np.ndarray:
    return level + rng.normal(0, 0.2, (runs, len(USERS)))


def test_a_group_is_the_mean_of_its_events_and_groups_share_the_draw() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 1, 60)[USERS]
    scores = {"f": np.tile(hard, (3, 1))}
    first = (np.arange(len(USERS)) % 5 == 0) * 1.0
    means = resample(scores, USERS, weights={"first": first, "others": 1 - first}, draws=500)["f"]
    assert means["first"].value == pytest.approx(hard[first == 1].mean())
    # A user's events are alike here, so both groups move together and their difference does not move at all.
    assert means["first"].draws_B.std() > 0.1
    np.testing.assert_allclose((means["first"] - means["others"]).draws_B, 0.0, atol=1e-12)


def test_weights_are_those_of_a_weighted_mean() -> None:
    values = np.array([[1.0, 0.0, 0.0, 5.0]])
    weights = np.array([3.0, 1.0, 0.0, 0.0])
    figure = resample({"f": values}, np.arange(4, dtype=np.int32), weights={"w": weights}, draws=200)["f"]["w"]
    assert figure.value == 0.75
    assert figure.draws_B.max() <= 1.0


def test_items_drawn_too_widen_the_interval_by_what_items_vary() -> None:
    rng = np.random.default_rng(1)
    users = np.arange(400, dtype=np.int32)
    items = (users % 8).astype(np.int32)
    values = rng.normal(0, 1, 8)[items][None, :]
    narrow, wide = (resample({"f": values}, users, items=given, draws=2_000)["f"]["all"] for given in (None, items))
    assert wide.draws_B.std() > 3 * narrow.draws_B.std()
    np.testing.assert_allclose(wide.draws_B.std(), values[0, :8].std() / np.sqrt(8), rtol=0.15)


def test_an_empty_group_is_no_figure_and_no_warning() -> None:
    figure = resample({"f": np.ones((2, 300))}, USERS, weights={"none": np.zeros(300)}, draws=50)["f"]["none"]
    estimate = figure.estimate()
    assert np.isnan([estimate.value, estimate.low, estimate.detectable]).all()
    assert estimate.p == 1.0


def test_arithmetic_is_draw_by_draw() -> None:
    a, b = Figure(3.0, np.array([2.0, 4.0])), Figure(1.0, np.array([1.0, 0.0]))
    assert (a - b).value == 2.0
    np.testing.assert_array_equal((a + b).draws_B, [3.0, 4.0])
    np.testing.assert_array_equal((a / b).draws_B, [2.0, np.nan])
    np.testing.assert_array_equal(a.times(-1.0).shifted(1.0).draws_B, [-1.0, -3.0])
    np.testing.assert_array_equal(mean_of([a, b]).draws_B, [1.5, 2.0])


def test_better_than_the_best_of_two_needs_both_and_worse_needs_one() -> None:
    rng = np.random.default_rng(2)
    above, at, below = (Figure(mean, mean + rng.normal(0, 0.1, 4_000)) for mean in (1.0, 0.0, -1.0))
    assert least([above, above]).low > 0
    assert least([above, at]).low < 0 < least([above, at]).high
    assert least([above, below]).high < 0
    assert least([above, below]).p < 0.01 < least([above, at]).p
    assert least([above, at]).value == 0.0


def test_the_best_of_several_equals_is_called_worse_no_more_often_than_chance() -> None:
    """The plain minimum of three noisy differences would lie below 0 in most worlds."""
    wrong = 0
    for world in range(200):
        rng = np.random.default_rng(world)
        scores = {name: _scores(0.3, rng=rng) for name in "fabc"}
        means = {name: groups["all"] for name, groups in resample(scores, USERS, draws=400, seed=world).items()}
        estimate = least([means["f"] - means[name] for name in "abc"])
        wrong += not estimate.low <= 0 <= estimate.high
    assert wrong <= 20
