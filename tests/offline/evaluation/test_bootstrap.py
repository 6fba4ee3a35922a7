from __future__ import annotations

import numpy as np
import pytest

from offline.evaluation.bootstrap import compare, holm, user_intervals


def test_a_users_events_are_drawn_together() -> None:
    """50 users with 20 equal events each know as much as 50 events, not as 1,000."""
    rng = np.random.default_rng(0)
    by_user = rng.random(50)
    low, high = user_intervals(np.repeat(by_user, 20)[:, None], np.repeat(np.arange(50, dtype=np.int32), 20))
    standard_error = by_user.std() / np.sqrt(50)
    np.testing.assert_allclose(high - low, 2 * 1.96 * standard_error, rtol=0.05)
    assert low < by_user.mean() < high


def test_events_weigh_the_same_whoever_they_belong_to() -> None:
    values = np.array([1.0, 1.0, 1.0, 0.0])[:, None]
    users = np.array([7, 7, 7, 9], dtype=np.int32)
    low, high = user_intervals(values, users)
    assert (low[0], high[0]) == (0.0, 1.0)
    same = compare({"f": values.T, "g": values.T}, users, contrasts=[("f", "g")], draws=200)[0]
    assert same.difference == 0.0
    assert same.p == 1.0


def test_no_event_is_refused() -> None:
    with pytest.raises(ValueError, match="no event"):
        user_intervals(np.empty((0, 1)), np.empty(0, dtype=np.int32))


def test_seeds_are_part_of_the_interval() -> None:
    """All users alike: only seeds vary, and the stretched deviations give the unbiased variance of a mean of n."""
    levels = np.random.default_rng(1).normal(0.5, 0.05, 5)
    scores = {"noisy": np.tile(levels[:, None], (1, 40)), "still": np.full((5, 40), 0.4)}
    (contrast,) = compare(scores, np.arange(40, dtype=np.int32), contrasts=[("noisy", "still")])
    np.testing.assert_allclose(contrast.detectable, 2.8 * levels.std(ddof=1) / np.sqrt(5), rtol=0.03)
    np.testing.assert_allclose(contrast.difference, levels.mean() - 0.4)
    np.testing.assert_allclose(contrast.relative, levels.mean() / 0.4 - 1)
    np.testing.assert_allclose(contrast.detectable_relative, contrast.detectable / 0.4, rtol=1e-6)


def test_users_are_shared_so_that_what_families_have_in_common_cancels() -> None:
    hard = np.random.default_rng(2).random(60)
    scores = {"base": hard[None, :], "better": hard[None, :] + 0.1}
    (contrast,) = compare(scores, np.arange(60, dtype=np.int32), contrasts=[("better", "base")])
    np.testing.assert_allclose([contrast.difference_low, contrast.difference_high], 0.1)
    assert contrast.p == pytest.approx(2 / 10_001)


def test_paired_seeds_cancel_and_unpaired_ones_do_not() -> None:
    seeds = np.random.default_rng(3).normal(0.5, 0.1, (5, 1)) + np.zeros((5, 30))
    scores = {"base": seeds, "residual": seeds + 0.01}
    users = np.arange(30, dtype=np.int32)
    (unpaired,) = compare(scores, users, contrasts=[("residual", "base")])
    (paired,) = compare(scores, users, contrasts=[("residual", "base")], paired={"residual": "base"})
    assert unpaired.difference_low < 0 < unpaired.difference_high
    np.testing.assert_allclose([paired.difference_low, paired.difference_high], 0.01)


def test_what_does_not_fit_is_refused() -> None:
    users = np.arange(4, dtype=np.int32)
    with pytest.raises(ValueError, match="not \\[seeds, 4\\]"):
        compare({"f": np.zeros((2, 3)), "g": np.zeros((2, 4))}, users, contrasts=[("f", "g")])
    with pytest.raises(ValueError, match="same number of seeds"):
        compare({"f": np.zeros((2, 4)), "g": np.zeros((3, 4))}, users, contrasts=[("f", "g")], paired={"f": "g"})


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_may_not_reject_makes_the_family_no_smaller_for_others() -> None:
    p_values = [0.001, 0.02, 0.03]
    assert holm(p_values) == pytest.approx([0.003, 0.04, 0.04])
    assert holm(p_values, [False, True, True]) == pytest.approx([0.003, 0.06, 0.06])


def test_a_base_without_hits_gives_no_relative_figure_and_no_warning() -> None:
    scores = {"base": np.zeros((1, 5)), "f": np.ones((1, 5))}
    (contrast,) = compare(scores, np.arange(5, dtype=np.int32), contrasts=[("f", "base")], draws=50)
    assert np.isnan([contrast.relative, contrast.relative_low, contrast.detectable_relative]).all()
    assert contrast.difference == 1.0


def test_a_null_world_claims_next_to_nothing() -> None:
    """Four families that are equal, five noisy seeds each, ten events a user: at most 10 worlds of 100 may claim."""
    claims = 0
    users = np.repeat(np.arange(80, dtype=np.int32), 10)
    for world in range(100):
        rng = np.random.default_rng(world)
        hard = rng.normal(0, 0.1, 80)[users]
        scores = {
            family: 0.2 + hard + rng.normal(0, 0.01, (5, 1)) + rng.normal(0, 0.2, (5, len(users)))
            for family in ("base", "a", "b", "c")
        }
        contrasts = compare(scores, users, contrasts=[(f, "base") for f in ("a", "b", "c")], draws=1_000, seed=world)
        claims += any(contrast.p_holm <= 0.05 for contrast in contrasts)
    assert claims <= 10


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(5)
    users = np.repeat(np.arange(200, dtype=np.int32), 10)
    scores = {
        name: level + rng.normal(0, 0.002, (5, 1)) + rng.normal(0, 0.2, (5, 2000))
        for name, level in (("base", 0.11), ("better", 0.13))
    }
    (contrast,) = compare(scores, users, contrasts=[("better", "base")], draws=2_000)
    assert contrast.p_holm <= 0.05
    assert contrast.difference > contrast.detectable


def test_weights_make_the_mean_per_user() -> None:
    """One user has a hundred events of 1, another one of 0: weighed per user they are a half."""
    values, users = np.array([*[1.0] * 100, 0.0]), np.array([*[0] * 100, 1], dtype=np.int32)
    weights = np.array([*[0.01] * 100, 1.0])
    (contrast,) = compare(
        {"f": values[None], "zero": np.zeros((1, 101))}, users, contrasts=[("f", "zero")], weights=weights
    )
    assert contrast.difference == pytest.approx(0.5)
    low, high = user_intervals(values[:, None], users, weights=weights)
    assert (low[0], high[0]) == (0.0, 1.0)


def test_weights_of_one_change_nothing() -> None:
    values, users = np.random.default_rng(0).random((60, 2)), np.arange(60, dtype=np.int32) // 3
    plain, weighed = user_intervals(values, users), user_intervals(values, users, weights=np.ones(60))
    np.testing.assert_array_equal(plain, weighed)


def test_items_are_drawn_beside_users() -> None:
    """20 users, 5 items, and all that varies is the item: the interval is that of 5 values."""
    levels = np.random.default_rng(4).random(5)
    users, items = (part.ravel().astype(np.int32) for part in np.meshgrid(np.arange(200), np.arange(5)))
    values = levels[items][:, None]
    by_user = user_intervals(values, users)
    low, high = user_intervals(values, users, items=items)
    np.testing.assert_allclose(by_user, levels.mean())
    np.testing.assert_allclose(high - low, 2 * 1.96 * levels.std() / np.sqrt(5), rtol=0.12)
