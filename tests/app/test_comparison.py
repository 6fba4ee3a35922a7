from __future__ import annotations

import numpy as np
import pytest

from app.comparison import bootstrap, compare
from app.feedback_counts import Counts, Group, UserCounts, digest, kept_at

DAY = 20_000


def drawn(rate: float, users: int, *, seed: int, asked: int = 5, prefix: str = "u") -> dict[str, UserCounts]:
    rng = np.random.default_rng(seed)
    clicks = rng.binomial(asked, rate, size=users)
    return {digest(f"{prefix}{user}"): UserCounts(asked, int(clicks[user])) for user in range(users)}


def counted(users: dict[str, UserCounts], *, letter: str = "l", day: int = DAY, level: int = 0) -> Counts:
    impressions, clicks = sum(one.impressions for one in users.values()), sum(one.clicks for one in users.values())
    return Counts(Group(day, "h", letter), impressions, clicks, level, users)


def test_a_clear_difference_is_seen_and_none_is_not_invented() -> None:
    a, b = drawn(0.1, 2000, seed=1), drawn(0.2, 200, seed=2, prefix="v")
    found = compare([counted(a)], [counted(b, letter="c")], names=("old", "new"), window_s=60.0)
    assert found.difference == pytest.approx(0.1, abs=0.04)
    assert found.low is not None
    assert found.low > 0
    assert found.verdict.startswith("new is better than old: +0.")
    other = compare([counted(b)], [counted(a, letter="c")], names=("new", "old"), window_s=60.0)
    assert other.verdict.startswith("old is worse than new: -0.")
    same = compare([counted(a)], [counted(drawn(0.1, 200, seed=3, prefix="v"))], names=("a", "b"), window_s=60.0)
    assert same.verdict.startswith("They cannot be told apart: b against a ")


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(60):
        found = bootstrap(drawn(0.1, 300, seed=2 * seed), drawn(0.1, 100, seed=2 * seed + 1, prefix="v"), draws=400)
        held += found.low <= 0 <= found.high
    assert held >= 51  # 57 of 60 expected; under 51 about once in 500 if the interval is honest


def test_users_count_once_however_often_they_ask() -> None:
    few = {digest(f"u{user}"): UserCounts(1, 1) for user in range(40)}
    many = dict(few) | {digest("addict"): UserCounts(100_000, 0)}
    found = compare([counted(few)], [counted(many)], names=("a", "b"), window_s=60.0)
    assert found.b.click_through == pytest.approx(40 / 100_040)
    assert found.b.click_through_per_user == pytest.approx(40 / 41)


def test_the_same_counts_give_the_same_interval() -> None:
    a, b = drawn(0.1, 100, seed=1), drawn(0.3, 50, seed=2, prefix="v")
    assert bootstrap(a, b) == bootstrap(dict(reversed(a.items())), b)


def test_a_user_of_both_is_drawn_with_both_values() -> None:
    """Every user clicks in a exactly when in b: paired, there is nothing to doubt, and unpaired there would be."""
    a = drawn(0.5, 100, seed=1, asked=1)
    assert bootstrap(a, a).high == pytest.approx(0.0, abs=1e-12)


def test_few_users_prove_nothing() -> None:
    a, b = drawn(0.0, 500, seed=1), drawn(1.0, 29, seed=2, prefix="v")
    found = compare([counted(a)], [counted(b)], names=("a", "b"), window_s=60.0)
    assert (found.difference, found.low, found.high) == (None, None, None)
    assert found.verdict.startswith("Too few users to tell: 500 saw a and 29 saw b")


def test_only_days_that_they_share_are_compared() -> None:
    a, b = drawn(0.1, 50, seed=1), drawn(0.1, 50, seed=2, prefix="v")
    yesterday = counted(drawn(0.9, 900, seed=3), day=DAY - 1)
    found = compare([counted(a), yesterday], [counted(b)], names=("a", "b"), window_s=9.0)
    assert found.days == ["2024-10-04"]
    assert found.a.users == 50
    apart = compare([counted(a, day=DAY - 1)], [counted(b)], names=("a", "b"), window_s=9.0)
    assert apart.days == ["2024-10-03", "2024-10-04"]
    assert apart.verdict.endswith("the days may be what differs.")


def test_days_and_labels_add_up() -> None:
    a = drawn(0.2, 40, seed=1)
    parts = [counted(a, letter="c"), counted(a, letter="l")]
    found = compare(parts, [counted(a)], names=("a", "b"), window_s=9.0)
    assert found.a.impressions == 2 * found.b.impressions
    assert [one.label for one in found.a.labels] == ["live", "canary"]
    assert found.a.click_through_per_user == pytest.approx(found.b.click_through_per_user)


def test_where_one_day_kept_half_of_the_users_the_same_half_is_compared() -> None:
    a = drawn(0.2, 400, seed=1)
    half = {user: counts for user, counts in drawn(0.2, 400, seed=2).items() if kept_at(user, 1)}
    found = compare([counted(a)], [counted(half, level=1)], names=("a", "b"), window_s=9.0)
    assert found.share_of_users == 0.5
    assert found.a.users == found.b.users == len(half)
    assert 150 < len(half) < 250
