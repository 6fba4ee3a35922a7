"""Claim 6: items with nearly the same title, and whether a model tells the chosen one from its twin."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from offline.claims.claim import LEAST_SEEDS, Finding, not_measured
from offline.claims.contrasts import beside, fewest, named
from offline.claims.inputs import TwinWins
from offline.claims.twin_events import TwinEvents
from offline.evaluation.metrics import Floats
from offline.evaluation.resampling import Figure, resample

FAMILY, BASE = "e4srec", "contriever"


def titles_apart(made: TwinWins | None, *, draws: int, seed: int) -> Finding:
    """Share of events where the target outranks its twin: E4SRec minus Contriever with text.

    Balanced: the mean of the shares where the target is more, and less, popular than the twin; popularity alone would
    make .5 of it. Titles that are the same letter for letter stand beside it.
    """
    contrast = f"balanced share of targets above their twin, {FAMILY} minus {BASE}"
    lacking = [arm for arm in (FAMILY, BASE) if made is None or arm not in made.wins]
    if made is None or lacking:
        return not_measured(6, contrast, f"{named(lacking)} were not asked for the scores of twins")
    events, wins = made.events, made.wins
    near_P, groups = ~events.identical, _groups(events)
    if not (groups["near more"].any() and groups["near less"].any()):
        return not_measured(6, contrast, "no two items have nearly the same title and different popularity")
    means = resample(wins, events.users, weights=groups, draws=draws, seed=seed)
    shares = {arm: {kind: _balanced(of_arm, kind) for kind in ("near", "identical")} for arm, of_arm in means.items()}
    rows = [beside(f"{arm}, titles nearly the same", share["near"], unit="share") for arm, share in shares.items()]
    if groups["identical more"].any() and groups["identical less"].any():
        rows += [beside(f"{arm}, titles the same", share["identical"], unit="share") for arm, share in shares.items()]
    return Finding(
        6,
        contrast,
        (shares[FAMILY]["near"] - shares[BASE]["near"]).estimate(),
        seeds=fewest({arm: len(wins[arm]) for arm in (FAMILY, BASE)}),
        least_seeds=LEAST_SEEDS,
        details={
            "unit": "share",
            "events": len(np.unique(events.events[near_P])),
            "events_with_identical_titles": len(np.unique(events.events[~near_P])),
            "popularity_alone": _popularity_alone(events),
            "beside": rows,
        },
    )


def _groups(events: TwinEvents) -> dict[str, Floats]:
    kinds = {"near": ~events.identical, "identical": events.identical}
    return {
        f"{kind} {side}": events.weights * mask_P * (events.popularity == sign)
        for kind, mask_P in kinds.items()
        for side, sign in (("more", 1), ("less", -1))
    }


def _balanced(of_arm: Mapping[str, Figure], kind: str) -> Figure:
    return (of_arm[f"{kind} more"] + of_arm[f"{kind} less"]).times(0.5)


def _popularity_alone(events: TwinEvents) -> float:
    """What ranking by popularity would reach without the balance."""
    weights_P = events.weights * ~events.identical
    wins_P = 0.5 * (1.0 + events.popularity)
    return float((weights_P * wins_P).sum() / weights_P.sum())
