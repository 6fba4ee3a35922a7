"""Two versions by what became of their answers: click-through per user, and whether the difference is one.

Each user counts once, however often he asks: clicks per answer of that user, averaged over users. The interval is the
percentile bootstrap (Efron, 1979) over users; a user who saw both versions is drawn with both of his values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from app.feedback_counts import DAY_S, Counts, UserCounts, kept_at
from app.request_ids import LABELS

DRAWS = 2000
CONFIDENCE = 0.95
FEWEST_USERS = 30
"""Of each version: with fewer, the bootstrap's interval is too narrow to be believed."""
_DRAWS_AT_ONCE = 200
Values = Mapping[str, UserCounts]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """Exact sums of all answers, those without a user_id too."""

    label: str
    impressions: int
    clicks: int


@dataclass(frozen=True, slots=True)
class ComparedVersion:
    """click_through: clicks per answer. click_through_per_user: the same of each user, averaged over `users`; None
    without users."""

    version: str
    impressions: int
    clicks: int
    click_through: float | None
    users: int
    click_through_per_user: float | None
    labels: list[LabelCounts]


@dataclass(frozen=True, slots=True)
class CompareAnswer:
    """difference: b less a, per user; low, high: its interval; None where there are too few users to tell.

    share_of_users: whose counts are kept one by one. days: UTC, that were compared.
    """

    a: ComparedVersion
    b: ComparedVersion
    difference: float | None
    low: float | None
    high: float | None
    confidence: float
    share_of_users: float
    days: list[str]
    click_window_seconds: float
    verdict: str


@dataclass(frozen=True, slots=True)
class Difference:
    """b less a, and the interval of it."""

    value: float
    low: float
    high: float


def compare(a: Sequence[Counts], b: Sequence[Counts], *, names: tuple[str, str], window_s: float) -> CompareAnswer:
    """Both as `Feedback.counts` gives them. Days on which both answered, where there are any; else all days."""
    common = {one.group.day for one in a} & {one.group.day for one in b}
    if common:
        a, b = ([one for one in counts if one.group.day in common] for counts in (a, b))
    level = max((one.level for one in (*a, *b)), default=0)
    users_a, users_b = (_users(counts, level) for counts in (a, b))
    difference = None
    if min(len(users_a), len(users_b)) >= FEWEST_USERS:
        difference = bootstrap(users_a, users_b)
    compared_a, compared_b = (
        _compared(name, counts, users) for name, counts, users in zip(names, (a, b), (users_a, users_b), strict=True)
    )
    return CompareAnswer(
        a=compared_a,
        b=compared_b,
        difference=None if difference is None else difference.value,
        low=None if difference is None else difference.low,
        high=None if difference is None else difference.high,
        confidence=CONFIDENCE,
        share_of_users=2.0**-level,
        days=[f"{datetime.fromtimestamp(day * DAY_S, UTC):%Y-%m-%d}" for day in sorted(_days(a) | _days(b))],
        click_window_seconds=window_s,
        verdict=_verdict(compared_a, compared_b, difference) + ("" if common else _NO_COMMON_DAY),
    )


_NO_COMMON_DAY = " They never answered on the same day, so the days may be what differs."


def bootstrap(a: Values, b: Values, *, draws: int = DRAWS, seed: int = 0) -> Difference:
    """Both non-empty. Users with equal values are drawn together: the same distribution, at a fraction of the cost."""
    users = sorted(a.keys() | b.keys())
    pairs_U2 = np.array([[_rate(a.get(user)), _rate(b.get(user))] for user in users])
    values_G2, counts_G = np.unique(pairs_U2, axis=0, return_counts=True)
    there_G2 = values_G2 >= 0
    values_G2 = np.where(there_G2, values_G2, 0.0)
    rng = np.random.default_rng(seed)
    parts = []
    for at in range(0, draws, _DRAWS_AT_ONCE):
        drawn_SG = rng.multinomial(len(users), counts_G / len(users), size=min(_DRAWS_AT_ONCE, draws - at))
        parts.append(_difference(drawn_SG.astype(np.float64), values_G2, there_G2))
    drawn_S = np.concatenate(parts)
    drawn_S = drawn_S[np.isfinite(drawn_S)]  # a draw may hold no user of one version
    low, high = np.quantile(drawn_S, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = _difference(counts_G[None].astype(np.float64), values_G2, there_G2)[0]
    return Difference(float(value), float(low), float(high))


def _difference(drawn_SG: Doubles, values_G2: Doubles, there_G2: npt.NDArray[np.bool_]) -> Doubles:
    with np.errstate(invalid="ignore", divide="ignore"):
        means_S2 = (drawn_SG @ values_G2) / (drawn_SG @ there_G2)
    difference_S: Doubles = means_S2[:, 1] - means_S2[:, 0]
    return difference_S


def _rate(counts: UserCounts | None) -> float:
    """-1 for a user who did not see the version."""
    return -1.0 if counts is None or counts.impressions == 0 else counts.clicks / counts.impressions


def _users(counts: Sequence[Counts], level: int) -> dict[str, UserCounts]:
    """All days and labels together, of those users whom every day has kept."""
    users: dict[str, UserCounts] = {}
    for one in counts:
        for user, more in one.users.items():
            if kept_at(user, level):
                known = users.get(user, UserCounts(0, 0))
                users[user] = UserCounts(known.impressions + more.impressions, known.clicks + more.clicks)
    return users


def _compared(version: str, counts: Sequence[Counts], users: Values) -> ComparedVersion:
    impressions, clicks = sum(one.impressions for one in counts), sum(one.clicks for one in counts)
    labels = [
        LabelCounts(
            label,
            sum(one.impressions for one in counts if one.group.letter == letter),
            sum(one.clicks for one in counts if one.group.letter == letter),
        )
        for letter, label in LABELS.items()
    ]
    return ComparedVersion(
        version=version,
        impressions=impressions,
        clicks=clicks,
        click_through=clicks / impressions if impressions else None,
        users=len(users),
        click_through_per_user=float(np.mean([_rate(one) for one in users.values()])) if users else None,
        labels=[one for one in labels if one.impressions or one.clicks],
    )


def _days(counts: Sequence[Counts]) -> set[int]:
    return {one.group.day for one in counts}


def _verdict(a: ComparedVersion, b: ComparedVersion, difference: Difference | None) -> str:
    if difference is None:
        return (
            f"Too few users to tell: {a.users} saw {a.version} and {b.users} saw {b.version}, "
            f"and {FEWEST_USERS} of each are needed."
        )
    interval = f"{difference.value:+.4f} clicks per answer ({difference.low:+.4f} to {difference.high:+.4f})"
    if difference.low <= 0 <= difference.high:
        return f"They cannot be told apart: {b.version} against {a.version} {interval}."
    return f"{b.version} is {'better' if difference.value > 0 else 'worse'} than {a.version}: {interval}."
