"""When a difference is a difference: users and seeds resampled together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offline.metrics import Floats

DRAWS = 10_000
CELLS = 2_000_000  # of a chunk of draws x users


def user_intervals(
    values_EM: Floats, users: npt.NDArray[np.int32], *, draws: int = DRAWS, seed: int = 0
) -> tuple[Floats, Floats]:
    """The 2.5 % and the 97.5 % point of each column's mean over events, users drawn with all their events."""
    if len(users) == 0:
        raise ValueError("there is no event to draw from")
    means = np.concatenate(list(_resampled_means(values_EM, users, draws=draws, rng=np.random.default_rng(seed))))
    low_M, high_M = np.percentile(means, [2.5, 97.5], axis=0)
    return low_M, high_M


def _resampled_means(
    values_EM: Floats, users: npt.NDArray[np.int32], *, draws: int, rng: np.random.Generator
) -> Iterator[Floats]:
    """Chunks of [draws, M]: means over events of resampled users. Sums per user once, then one product per chunk."""
    _, cluster_E = np.unique(users, return_inverse=True)
    sums_UM = np.stack([np.bincount(cluster_E, weights=column) for column in values_EM.T], axis=1)
    events_U = np.bincount(cluster_E).astype(np.float64)
    clusters = len(events_U)
    for start in range(0, draws, step := max(1, CELLS // clusters)):
        size = min(step, draws - start)
        drawn = rng.integers(0, clusters, size=(size, clusters), dtype=np.int32)
        drawn += (np.arange(size, dtype=np.int32) * clusters)[:, None]
        times_BU = np.bincount(drawn.ravel(), minlength=size * clusters).reshape(size, clusters).astype(np.float64)
        yield (times_BU @ sums_UM) / (times_BU @ events_U)[:, None]


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
    users: npt.NDArray[np.int32],
    *,
    contrasts: list[tuple[str, str]],
    paired: Mapping[str, str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Contrast]:
    """The hierarchical bootstrap of (family, base) pairs.

    scores: family -> float64 [seeds, E], the same E events for all. users: int32[E], drawn once for all families.
    paired: family -> the family whose own seeds it uses, run by run (residual, fusion): they are drawn together.
    """
    means = _family_means(scores, users, paired=paired or {}, draws=draws, seed=seed)
    adjusted = holm([_p_value(means[family] - means[base]) for family, base in contrasts])
    return [
        _contrast(family, base, scores=scores, means=means, p_holm=p_holm)
        for (family, base), p_holm in zip(contrasts, adjusted, strict=True)
    ]


def _family_means(
    scores: Mapping[str, Floats], users: npt.NDArray[np.int32], *, paired: Mapping[str, str], draws: int, seed: int
) -> dict[str, Floats]:
    """family -> float64[draws]: resampled users, then resampled seeds of each family."""
    for family, values_SE in scores.items():
        if values_SE.ndim != 2 or values_SE.shape[1] != len(users) or len(values_SE) == 0:
            raise ValueError(f"{family}: scores are {values_SE.shape}, not [seeds, {len(users)}]")
    users_rng, seeds_rng = (np.random.default_rng([seed, part]) for part in range(2))
    columns = np.concatenate(list(scores.values())).T
    by_run = np.concatenate(list(_resampled_means(columns, users, draws=draws, rng=users_rng)))
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
    family: str, base: str, *, scores: Mapping[str, Floats], means: Mapping[str, Floats], p_holm: float
) -> Contrast:
    difference_B = means[family] - means[base]
    # NaN: against a base without a single hit there is no relative difference.
    base_B = np.where(means[base] == 0, np.nan, means[base])
    base_mean = scores[base].mean() or np.nan
    relative_B = means[family] / base_B - 1
    difference_low, difference_high = np.percentile(difference_B, [2.5, 97.5])
    relative_low, relative_high = np.percentile(relative_B, [2.5, 97.5])
    return Contrast(
        family,
        base,
        difference=float(scores[family].mean() - scores[base].mean()),
        difference_low=float(difference_low),
        difference_high=float(difference_high),
        relative=float(scores[family].mean() / base_mean - 1),
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
