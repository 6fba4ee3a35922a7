"""When a difference is a difference: users and seeds resampled together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offline.metrics import Floats, weighted_mean

DRAWS = 10_000
CELLS = 2_000_000  # of a chunk of draws x users


Rows = npt.NDArray[np.int32]


def user_intervals(
    values_EM: Floats,
    users: Rows,
    *,
    weights: Floats | None = None,
    items: Rows | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """The 2.5 % and the 97.5 % point of each column's mean over events, users drawn with all their events.

    weights: float64[E], what each event weighs (None: all alike). items: int32[E], drawn as well where they are given.
    """
    if len(users) == 0:
        raise ValueError("there is no event to draw from")
    chunks = _resampled_means(
        values_EM, users, weights=weights, items=items, draws=draws, rng=np.random.default_rng(seed)
    )
    low_M, high_M = np.percentile(np.concatenate(list(chunks)), [2.5, 97.5], axis=0)
    return low_M, high_M


def _resampled_means(
    values_EM: Floats,
    users: Rows,
    *,
    weights: Floats | None,
    items: Rows | None,
    draws: int,
    rng: np.random.Generator,
) -> Iterator[Floats]:
    """Chunks of [draws, M]: means over events of resampled users (and items)."""
    _, cluster_E = np.unique(users, return_inverse=True)
    weights_E = np.ones(len(users)) if weights is None else weights
    if items is not None:
        yield from _two_way_means(values_EM, cluster_E, weights_E=weights_E, items=items, draws=draws, rng=rng)
        return
    # Sums per user once, then one product per chunk.
    sums_UM = np.stack([np.bincount(cluster_E, weights=column * weights_E) for column in values_EM.T], axis=1)
    weights_U = np.bincount(cluster_E, weights=weights_E)
    for times_BU in _draws(len(weights_U), draws, rng=rng, chunk=max(1, CELLS // len(weights_U))):
        yield (times_BU @ sums_UM) / (times_BU @ weights_U)[:, None]


def _two_way_means(
    values_EM: Floats,
    cluster_E: npt.NDArray[np.intp],
    *,
    weights_E: Floats,
    items: Rows,
    draws: int,
    rng: np.random.Generator,
) -> Iterator[Floats]:
    """Users and items drawn independently; an event counts as often as both together (Owen, 2007, "The pigeonhole
    bootstrap"). A draw that happens to hold no event counts as the mean of all.
    """
    _, item_E = np.unique(items, return_inverse=True)
    chunk = max(1, CELLS // len(cluster_E))
    whole_M = weighted_mean(values_EM, weights_E)
    user_draws = _draws(int(cluster_E.max()) + 1, draws, rng=rng, chunk=chunk)
    item_draws = _draws(int(item_E.max()) + 1, draws, rng=rng, chunk=chunk)
    for times_BU, times_BI in zip(user_draws, item_draws, strict=True):
        times_BE = times_BU[:, cluster_E] * times_BI[:, item_E] * weights_E
        totals_B1 = times_BE.sum(axis=1, keepdims=True)
        means_BM = (times_BE @ values_EM) / np.where(totals_B1 > 0, totals_B1, 1.0)
        yield np.where(totals_B1 > 0, means_BM, whole_M)


def _draws(clusters: int, draws: int, *, rng: np.random.Generator, chunk: int) -> Iterator[Floats]:
    """Chunks of [draws, clusters]: how often each cluster is in a draw of as many."""
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        drawn = rng.integers(0, clusters, size=(size, clusters), dtype=np.int32)
        drawn += (np.arange(size, dtype=np.int32) * clusters)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * clusters).reshape(size, clusters).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Contrast:
    """One family against a base. Intervals are 95 %, unadjusted; p is two-sided, p_holm over the contrasts asked for.

    relative: n_family / n_base - 1. detectable: smallest detectable difference, 2.8 standard errors (80 % power at
    5 %), in the metric's own unit and relative to the base. seeds: the fewer of the two sides.
    """

    family: str
    base: str
    difference: float
    difference_low: float
    difference_high: float
    relative: float
    relative_low: float
    relative_high: float
    p: float
    p_holm: float
    detectable: float
    detectable_relative: float
    seeds: int

    def claimed(self, *, least_seeds: int = 5) -> bool:
        """Whether the page may claim it; 3 seeds are enough where a run costs over 20 minutes."""
        return self.p_holm <= 0.05 and self.seeds >= least_seeds


def compare(
    scores: Mapping[str, Floats],
    users: Rows,
    *,
    contrasts: list[tuple[str, str]],
    paired: Mapping[str, str] | None = None,
    weights: Floats | None = None,
    items: Rows | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Contrast]:
    """The hierarchical bootstrap of (family, base) pairs.

    scores: family -> float64 [seeds, E], the same E events for all. users: int32[E], drawn once for all families.
    paired: family -> the family whose own seeds it uses, run by run (residual, fusion): they are drawn together.
    weights, items: as in `user_intervals`.
    """
    means = _family_means(scores, users, paired=paired or {}, weights=weights, items=items, draws=draws, seed=seed)
    points = {family: float(weighted_mean(values.mean(axis=0), weights)) for family, values in scores.items()}
    adjusted = holm([_p_value(means[family] - means[base]) for family, base in contrasts])
    return [
        _contrast(family, base, scores=scores, points=points, means=means, p_holm=p_holm)
        for (family, base), p_holm in zip(contrasts, adjusted, strict=True)
    ]


def _family_means(
    scores: Mapping[str, Floats],
    users: Rows,
    *,
    paired: Mapping[str, str],
    weights: Floats | None,
    items: Rows | None,
    draws: int,
    seed: int,
) -> dict[str, Floats]:
    """family -> float64[draws]: resampled users, then resampled seeds of each family."""
    for family, values_SE in scores.items():
        if values_SE.ndim != 2 or values_SE.shape[1] != len(users) or len(values_SE) == 0:
            raise ValueError(f"{family}: scores are {values_SE.shape}, not [seeds, {len(users)}]")
    users_rng, seeds_rng = (np.random.default_rng([seed, part]) for part in range(2))
    columns = np.concatenate(list(scores.values())).T
    chunks = _resampled_means(columns, users, weights=weights, items=items, draws=draws, rng=users_rng)
    by_run = np.concatenate(list(chunks))
    ends = np.cumsum([len(values) for values in scores.values()])
    runs = dict(zip(scores, np.split(by_run, ends[:-1], axis=1), strict=True))
    seeds = {family: _seed_shares(len(scores[family]), draws, rng=seeds_rng) for family in scores}
    for family, source in paired.items():
        if len(scores[family]) != len(scores[source]):
            raise ValueError(f"{family} and {source} are paired but have not the same number of seeds")
        seeds[family] = seeds[source]
    return {family: _with_seeds(runs[family], seeds[family]) for family in scores}


def _seed_shares(seeds: int, draws: int, *, rng: np.random.Generator) -> Floats:
    """float64 [draws, seeds]: how much of a draw's mean each seed makes."""
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds


def _with_seeds(runs_BS: Floats, shares_BS: Floats) -> Floats:
    """Deviations are stretched by sqrt(n / (n - 1)): n drawn seeds vary by too little otherwise."""
    seeds = runs_BS.shape[1]
    mean_B: Floats = runs_BS.mean(axis=1)
    if seeds == 1:
        return mean_B
    deviation_B = (shares_BS * (runs_BS - mean_B[:, None])).sum(axis=1)
    stretched: Floats = mean_B + np.sqrt(seeds / (seeds - 1)) * deviation_B
    return stretched


def _contrast(
    family: str,
    base: str,
    *,
    scores: Mapping[str, Floats],
    points: Mapping[str, float],
    means: Mapping[str, Floats],
    p_holm: float,
) -> Contrast:
    difference_B = means[family] - means[base]
    # NaN: against a base without a single hit there is no relative difference.
    base_B = np.where(means[base] == 0, np.nan, means[base])
    base_mean = points[base] or np.nan
    relative_B = means[family] / base_B - 1
    difference_low, difference_high = np.percentile(difference_B, [2.5, 97.5])
    relative_low, relative_high = np.percentile(relative_B, [2.5, 97.5])
    return Contrast(
        family,
        base,
        difference=points[family] - points[base],
        difference_low=float(difference_low),
        difference_high=float(difference_high),
        relative=points[family] / base_mean - 1,
        relative_low=float(relative_low),
        relative_high=float(relative_high),
        p=_p_value(difference_B),
        p_holm=p_holm,
        detectable=2.8 * float(difference_B.std(ddof=1)),
        detectable_relative=2.8 * float(relative_B.std(ddof=1)),
        seeds=min(len(scores[family]), len(scores[base])),
    )


def _p_value(difference_B: Floats) -> float:
    """Two-sided; never 0, whatever the number of draws."""
    below, above = int((difference_B <= 0).sum()), int((difference_B >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(difference_B) + 1))


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjustment (1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - step)))
        adjusted[index] = largest
    return adjusted
