"""Claim 3: items that nothing was fitted to, ranked among themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from offline.claims.claim import LEAST_SEEDS, Finding, least_seeds, not_measured
from offline.claims.contrasts import beside, mean_named, named
from offline.claims.inputs import WITHOUT_SEEDS, ColdDraw, Rows, Scored
from offline.evaluation.metrics import Floats, gains
from offline.evaluation.resampling import Figure, least, mean_of, resample

TEXT = ("contriever", "llm2vec")
BASELINES = ("tfidf-knn", "sasrec-regression")
UNIT = "recall@10 among cold items"


def cold_items(cold: Mapping[str, ColdDraw], *, minutes: Mapping[str, float], draws: int, seed: int) -> Finding:
    """Among-C recall@10 of the text families (their mean) minus the better of TF-IDF kNN and SASRec with regression.

    All draws of items together; users and items are resampled. Rows beside it name every arm, with ID families as they
    are and with the regression, and the same against the full catalogue.
    """
    contrast = f"{UNIT}, text families minus the better of {named(BASELINES)}"
    scores = _together(cold, lambda draw: draw.among)
    text, known = [a for a in TEXT if a in scores], [a for a in BASELINES if a in scores]
    if not text or not known:
        lacking = [arm for arm in (*TEXT, *BASELINES) if arm not in scores]
        return not_measured(3, contrast, f"cold-items has no runs of {named(lacking)}")
    contrast = f"{UNIT}, {mean_named(text)} minus the better of {named(BASELINES)}"
    means = _means(cold, scores, draws=draws, seed=seed)
    primary = mean_of([means[arm] for arm in text])
    compared, lacking = [*text, *known], [arm for arm in BASELINES if arm not in scores]
    return Finding(
        3,
        contrast,
        least([primary - means[arm] for arm in known]),
        seeds=_runs(cold, compared),
        least_seeds=least_seeds(minutes.get(arm, 0.0) for arm in compared),
        holds_back=f"there are no runs of {named(lacking)}" if lacking else "",
        details={
            "unit": UNIT,
            "draws_of_items": len(cold),
            "events": sum(len(draw.targets) for draw in cold.values()),
            "beside": [
                *({"arm": arm} | beside(arm, figure, unit=UNIT) for arm, figure in means.items()),
                *_against_all(cold, draws=draws, seed=seed),
            ],
        },
    )


def _together(cold: Mapping[str, ColdDraw], part: Callable[[ColdDraw], Mapping[str, Scored]]) -> dict[str, Floats]:
    """Arm -> float64 [S, E] over the events of all draws, of the arms that every draw has.

    Row s holds the s-th run of each draw: runs of different draws are independent, so rows are as good as seeds. An arm
    without randomness, or with fewer runs somewhere, has as many rows as its poorest draw.
    """
    parts = [part(draw) for draw in cold.values()]
    arms = [arm for arm in (parts[0] if parts else {}) if all(arm in scored for scored in parts)]
    rows = {arm: min(len(scored[arm].ranks_SE) for scored in parts) for arm in arms}
    return {
        arm: np.concatenate([gains(scored[arm].ranks_SE[: rows[arm]], "hr@10") for scored in parts], axis=1)
        for arm in arms
        if rows[arm]
    }


def _means(cold: Mapping[str, ColdDraw], scores: Mapping[str, Floats], *, draws: int, seed: int) -> dict[str, Figure]:
    users: Rows = np.concatenate([next(iter(draw.among.values())).users_E for draw in cold.values()])
    items: Rows = np.concatenate([draw.targets for draw in cold.values()])
    figures = resample(scores, users, items=items, draws=draws, seed=seed)
    return {arm: groups["all"] for arm, groups in figures.items()}


def _against_all(cold: Mapping[str, ColdDraw], *, draws: int, seed: int) -> Sequence[dict[str, object]]:
    scores = _together(cold, lambda draw: draw.full)
    if not scores:
        return []
    means = _means(cold, scores, draws=draws, seed=seed)
    unit = "recall@10 in the full catalogue"
    return [{"arm": arm} | beside(arm, figure, unit=unit) for arm, figure in means.items()]


def _runs(cold: Mapping[str, ColdDraw], arms: Sequence[str]) -> int:
    """Trained runs of the arm that has the fewest, over all draws."""
    counts = [sum(len(draw.among[arm].ranks_SE) for draw in cold.values()) for arm in arms if arm not in WITHOUT_SEEDS]
    return min(counts, default=LEAST_SEEDS)
