"""A world in which all families are equal: how often the page would claim a difference there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from offline.claims import measure_all
from offline.claims import worlds as claim_worlds
from offline.claims.inputs import Extras, Scored
from offline.claims.twin_events import twin_events
from offline.compare.arms import ARMS as PAGE
from offline.compare.arms import BY_NAME
from offline.compare.contrasts import ALWAYS_AGAINST, adjusted_with, judge, p_of_claims, p_of_contrasts
from offline.compare.scores import ArmScores, ScoreMeta
from offline.evaluation.metrics import Floats
from offline.splits.sequences import Split

# All that a page's primary contrasts are about.
ARMS = tuple(
    arm.name
    for arm in PAGE
    if arm.name in ALWAYS_AGAINST or arm.role in ("family", "fusion") or arm.name in {other.twin for other in PAGE}
)
# The least p there can be is 2 / (draws + 1), and Holm multiplies it by some 45: with fewer nothing could be claimed.
NULL_DRAWS = 4_000
DEPTH = 20


def null_world(seed: int, *, users: int = 100, events: int = 10, seeds: int = 5) -> dict[str, ArmScores]:
    """Arms whose ranks are drawn alike: users who are easier or harder for all, events that are, runs that come out a
    little better or worse by chance."""
    rng = np.random.default_rng([seed, 1])
    users_E = np.repeat(np.arange(users, dtype=np.int32), events)
    ease_E = np.repeat(rng.normal(size=users), events) + rng.normal(size=users * events)
    return {name: _arm(name, ease_E, users_E, seeds=seeds if BY_NAME[name].drawn else 1, rng=rng) for name in ARMS}


def _arm(
    name: str,
    ease_E: Floats,
    users_E: np.ndarray[tuple[int], np.dtype[np.int32]],
    *,
    seeds: int,
    rng: np.random.Generator,
) -> ArmScores:
    arm = BY_NAME[name]
    # What an arm finds easy is its own (shared by its runs), and every run has luck of its own; what is not drawn has
    # none: its luck would be a true difference.
    own_E, luck_S1 = rng.normal(size=len(users_E)), 0.05 * rng.normal(size=(seeds, 1)) * arm.drawn
    logits_SE = ease_E + own_E + luck_S1 + 0.5 * rng.normal(size=(seeds, len(users_E)))
    # About a fifth within the first ten, as on real data; 0 is not within the depth.
    places_SE = np.clip(np.exp(4.5 - 1.2 * logits_SE), 1, None)
    ranks_SE = np.where(places_SE > DEPTH, 0, places_SE).astype(np.int32)
    meta = ScoreMeta(
        arm=name,
        family=arm.family,
        variant=arm.variant,
        protocol="last-10",
        seed=0,
        fingerprint="-",
        dataset="null",
        dataset_fingerprint="-",
        split_fingerprint="-",
        seen_removed=True,
        depth=DEPTH,
        events=len(users_E),
        users=int(users_E.max()) + 1,
        measured_at="-",
        score_seconds=0.0,
    )
    return ArmScores(
        name,
        arm.family,
        arm.variant,
        "last-10",
        seeds=tuple(range(seeds)),
        ranks_SE=ranks_SE,
        users_E=users_E,
        weights_E=None,
        kept_SE=None,
        among_SE=None,
        wins_SP=None,
        metas=(meta,) * seeds,
    )


def claims_in_null_worlds(worlds: int = 100, *, draws: int = NULL_DRAWS) -> int:
    """In how many worlds a page would claim anything: among its contrasts, or among the thirteen claims.

    The claims are asked about inputs of their own, of the same seed: more chances to be wrong than on a page, where
    both hear the same runs.
    """
    data, pairs = claim_worlds.long_interest(), claim_worlds.sequels()
    twins = twin_events(pairs.dataset, pairs.test)

    def claims_something(seed: int) -> bool:
        warm, extras = claim_worlds.nothing_to_find(data.test, twins, seed=seed)
        return bool(claimed_of_page(null_world(seed), warm, data, extras=extras, draws=draws, seed=seed))

    return sum(claims_something(seed) for seed in range(worlds))


def claimed_of_page(
    scores: Mapping[str, ArmScores],
    warm: Mapping[str, Scored],
    data: Split,
    *,
    extras: Extras,
    draws: int,
    seed: int,
) -> list[str]:
    """The contrasts of `scores` and the claims of (`warm`, `extras`) about the test events of `data` that a page which
    shows both would claim: one adjustment goes for all of them.
    """
    judged = judge(scores, draws=draws)
    others = p_of_contrasts(judged)
    claims = measure_all(warm, data.dataset, data.test, extras=extras, others=others, draws=draws, seed=seed)
    judged = adjusted_with(judged, p_of_claims(claims), scores)
    decided = [f"claim {c.number} {c.verdict}" for c in claims if c.verdict in ("supported", "contradicted")]
    return [f"{j.contrast.family} against {j.contrast.base}" for j in judged if j.claimed] + decided
