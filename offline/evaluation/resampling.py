"""Users, items and seeds resampled together: figures that carry their draws, and what may be computed from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offline.evaluation.metrics import Floats

DRAWS = 10_000
CELLS = 2_000_000  # of a chunk of draws x users (or events)
WHOLE = "all"

Rows = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Estimate:
    """95 % interval; p two-sided; detectable: 2.8 standard errors (80 % power at 5 %)."""

    value: float
    low: float
    high: float
    p: float
    detectable: float


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """A figure as measured, and as it came out in each draw: float64[draws].

    Arithmetic is done draw by draw, so that what two figures have in common cancels. NaN: nothing to be measured on.
    """

    value: float
    draws_B: Floats

    def __add__(self, other: Figure) -> Figure:
        return Figure(self.value + other.value, self.draws_B + other.draws_B)

    def __sub__(self, other: Figure) -> Figure:
        return Figure(self.value - other.value, self.draws_B - other.draws_B)

    def __truediv__(self, other: Figure) -> Figure:
        # NaN: nothing is relative to a figure that is 0.
        below_B = np.where(other.draws_B == 0, np.nan, other.draws_B)
        return Figure(self.value / other.value if other.value else np.nan, self.draws_B / below_B)

    def times(self, factor: float) -> Figure:
        return Figure(self.value * factor, self.draws_B * factor)

    def shifted(self, by: float) -> Figure:
        return Figure(self.value + by, self.draws_B + by)

    def estimate(self) -> Estimate:
        return least([self])


def mean_of(figures: Sequence[Figure]) -> Figure:
    total = figures[0]
    for figure in figures[1:]:
        total = total + figure
    return total.times(1 / len(figures))


def least(figures: Sequence[Figure]) -> Estimate:
    """The smallest of several true differences: of "better than the best of k others".

    The minimum of noisy figures lies below the true one, so it is not resampled itself. It is above 0 when all are
    (Berger, 1982: each at the full level), and below 0 when any is (each at level / k): the interval takes the lower
    ends at 2.5 %, and the upper ends at 97.5 % corrected for k.
    """
    finite = [figure.draws_B[np.isfinite(figure.draws_B)] for figure in figures]
    if any(len(draws) == 0 for draws in finite) or not np.isfinite([figure.value for figure in figures]).all():
        return Estimate(np.nan, np.nan, np.nan, 1.0, np.nan)
    lows = [float(np.percentile(draws, 2.5)) for draws in finite]
    highs = [float(np.percentile(draws, 100 - 2.5 / len(figures))) for draws in finite]
    below = max(_share(draws <= 0) for draws in finite)
    above = min(1.0, len(figures) * min(_share(draws >= 0) for draws in finite))
    spread = max(float(draws.std(ddof=1)) for draws in finite)
    value = min(figure.value for figure in figures)
    return Estimate(value, min(lows), min(highs), min(1.0, 2 * min(below, above)), 2.8 * spread)


def _share(outcomes_B: npt.NDArray[np.bool_]) -> float:
    """Never 0, whatever the number of draws."""
    return (int(outcomes_B.sum()) + 1) / (len(outcomes_B) + 1)


def resample(
    scores: Mapping[str, Floats],
    users: Rows,
    *,
    weights: Mapping[str, Floats] | None = None,
    items: Rows | None = None,
    paired: Mapping[str, str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, dict[str, Figure]]:
    """Family -> group -> mean over seeds, then over events: the hierarchical bootstrap.

    scores: family -> float64 [seeds, E], the same E events for all. users: int32[E], drawn once for all families and
    groups, each with all its events.
    weights: group -> float64[E], how much each event counts in it (0: not at all); None: one group, "all".
    items: int32[E]: drawn too, crossed with users (Owen, 2007, "The pigeonhole bootstrap").
    paired: family -> the family whose own seeds it uses, run by run (residual, fusion): they are drawn together.
    """
    for family, values_SE in scores.items():
        if values_SE.ndim != 2 or values_SE.shape[1] != len(users) or len(values_SE) == 0:
            raise ValueError(f"{family}: scores are {values_SE.shape}, not [seeds, {len(users)}]")
    groups = {WHOLE: np.ones(len(users))} if weights is None else dict(weights)
    users_rng, seeds_rng = (np.random.default_rng([seed, part]) for part in range(2))
    columns_EM = np.concatenate(list(scores.values())).T
    weights_EG = np.stack(list(groups.values()), axis=1)
    chunks = resampled_means(columns_EM, users, weights_EG=weights_EG, items=items, draws=draws, rng=users_rng)
    by_run_BGM = np.concatenate(list(chunks))
    ends = np.cumsum([len(values) for values in scores.values()])
    runs = dict(zip(scores, np.split(by_run_BGM, ends[:-1], axis=2), strict=True))
    shares = _seed_shares(scores, paired or {}, draws=draws, rng=seeds_rng)
    figures: dict[str, dict[str, Figure]] = {}
    for family, values_SE in scores.items():
        mean_E = values_SE.mean(axis=0)
        figures[family] = {
            group: Figure(_mean(mean_E, weights_E), _with_seeds(runs[family][:, at], shares[family]))
            for at, (group, weights_E) in enumerate(groups.items())
        }
    return figures


def _mean(values_E: Floats, weights_E: Floats) -> float:
    total = weights_E.sum()
    return float((values_E * weights_E).sum() / total) if total > 0 else float("nan")


def resampled_means(
    values_EM: Floats,
    users: Rows,
    *,
    weights_EG: Floats,
    items: Rows | None = None,
    draws: int,
    rng: np.random.Generator,
) -> Iterator[Floats]:
    """Chunks of [draws, G, M]: weighted means over events of resampled users (and items).

    A draw without any event of a group counts as the mean of all of them: NaN where there are none.
    """
    if len(users) == 0:
        raise ValueError("there is no event to draw from")
    events, groups = weights_EG.shape
    _, user_E = np.unique(users, return_inverse=True)
    both_EC = np.concatenate([(weights_EG[:, :, None] * values_EM[:, None, :]).reshape(events, -1), weights_EG], axis=1)
    totals_G1 = weights_EG.sum(axis=0)[:, None]
    whole_GM = weights_EG.T @ values_EM / np.where(totals_G1 > 0, totals_G1, np.nan)
    item_E = None if items is None else np.unique(items, return_inverse=True)[1]
    if item_E is None:
        # Sums per user once, then one product per chunk.
        both_EC = np.stack([np.bincount(user_E, weights=column) for column in both_EC.T], axis=1)
    for start in range(0, draws, step := max(1, CELLS // len(both_EC))):
        size = min(step, draws - start)
        times = _times(int(user_E.max()) + 1, size, rng=rng)
        if item_E is not None:
            times = times[:, user_E] * _times(int(item_E.max()) + 1, size, rng=rng)[:, item_E]
        sums_BC = times @ both_EC
        sums_BGM = sums_BC[:, :-groups].reshape(size, groups, -1)
        events_BG1 = sums_BC[:, -groups:, None]
        yield np.where(events_BG1 > 0, sums_BGM / np.where(events_BG1 > 0, events_BG1, 1.0), whole_GM)


def _times(clusters: int, size: int, *, rng: np.random.Generator) -> Floats:
    """float64 [size, clusters]: how often each cluster comes in a draw of as many."""
    drawn = rng.integers(0, clusters, size=(size, clusters), dtype=np.int32)
    drawn += (np.arange(size, dtype=np.int32) * clusters)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * clusters).reshape(size, clusters).astype(np.float64)


def _seed_shares(
    scores: Mapping[str, Floats], paired: Mapping[str, str], *, draws: int, rng: np.random.Generator
) -> dict[str, Floats]:
    """Family -> float64 [draws, seeds]: how much of a draw's mean each seed makes."""
    shares = {
        family: rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=draws) / len(values)
        for family, values in scores.items()
    }
    for family, source in paired.items():
        if len(scores[family]) != len(scores[source]):
            raise ValueError(f"{family} and {source} are paired but have not the same number of seeds")
        shares[family] = shares[source]
    return shares


def _with_seeds(runs_BS: Floats, shares_BS: Floats) -> Floats:
    """Deviations are stretched by sqrt(n / (n - 1)): n drawn seeds vary by too little otherwise."""
    seeds = runs_BS.shape[1]
    mean_B: Floats = runs_BS.mean(axis=1)
    if seeds == 1:
        return mean_B
    deviation_B = (shares_BS * (runs_BS - mean_B[:, None])).sum(axis=1)
    stretched: Floats = mean_B + np.sqrt(seeds / (seeds - 1)) * deviation_B
    return stretched
