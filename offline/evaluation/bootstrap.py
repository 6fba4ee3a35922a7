"""When a difference is a difference: intervals and adjusted p of one family against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offline.evaluation.metrics import Floats, weighted_mean
from offline.evaluation.resampling import DRAWS, WHOLE, resample, resampled_means

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
    weights_E1 = (np.ones(len(users)) if weights is None else weights)[:, None]
    rng = np.random.default_rng(seed)
    chunks = resampled_means(values_EM, users, weights_EG=weights_E1, items=items, draws=draws, rng=rng)
    low_M, high_M = np.percentile(np.concatenate(list(chunks))[:, 0], [2.5, 97.5], axis=0)
    return low_M, high_M


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
    groups = None if weights is None else {WHOLE: weights}
    figures = resample(scores, users, weights=groups, items=items, paired=paired, draws=draws, seed=seed)
    means = {family: of_family[WHOLE].draws_B for family, of_family in figures.items()}
    points = {family: float(weighted_mean(values.mean(axis=0), weights)) for family, values in scores.items()}
    adjusted = holm([_p_value(means[family] - means[base]) for family, base in contrasts])
    return [
        _contrast(family, base, scores=scores, points=points, means=means, p_holm=p_holm)
        for (family, base), p_holm in zip(contrasts, adjusted, strict=True)
    ]


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


def holm(p_values: Sequence[float], counted: Sequence[bool] | None = None) -> list[float]:
    """Holm's step-down adjustment (1979), in the order given.

    counted: whether each may reject at all (None: all may). One that may not (too few runs) makes the family no
    smaller for those after it, whatever its p: it is adjusted by the whole family, as Bonferroni does.
    """
    counted = [True] * len(p_values) if counted is None else counted
    adjusted = [min(1.0, p * len(p_values)) for p in p_values]
    largest = 0.0
    places = [index for index in range(len(p_values)) if counted[index]]
    for step, index in enumerate(sorted(places, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - step)))
        adjusted[index] = largest
    return adjusted
