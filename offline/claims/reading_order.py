"""Claim 9: what recommenders lose when the histories that they read are shuffled."""

from __future__ import annotations

from collections.abc import Mapping

from offline.claims.claim import Finding, not_measured
from offline.claims.contrasts import beside, fewest, in_words, mean_named, named
from offline.claims.inputs import OrderScores, Rows
from offline.evaluation.metrics import Floats
from offline.evaluation.resampling import Figure, mean_of, resample

BASELINE = "sasrec"
LANGUAGE_MODELS = ("ilora", "contriever", "llm2vec", "e4srec", "llamarec")
SHUFFLES = {"all": "whole history", "but last": "all but the last item"}


def reading_order(order: Mapping[str, OrderScores], users: Rows, *, draws: int, seed: int) -> Finding:
    """1 - N(shuffled) / N with whole histories shuffled, mean over the language-model families that were asked.

    Of residual and fused rows only the language model reads shuffled histories. Beside it: each family's own drop, with
    all but the last item shuffled too, and SASRec's.
    """
    there = [arm for arm in LANGUAGE_MODELS if arm in order]
    if not there:
        return not_measured(9, "relative drop of NDCG@10", "no language model was asked with shuffled histories")
    contrast = f"relative drop of NDCG@10 with shuffled histories, {mean_named(there)}"
    drops = _drops({arm: order[arm] for arm in order}, users, draws=draws, seed=seed)
    primary = mean_of([drops[arm]["all"] for arm in there])
    rows = [
        beside(f"{arm}, {label} shuffled", drops[arm][what], unit="relative drop")
        for arm in order
        for what, label in SHUFFLES.items()
    ]
    if BASELINE in order:
        difference = primary - drops[BASELINE]["all"]
        rows.append(
            beside(f"{named(there)} minus {BASELINE}, whole history shuffled", difference, unit="relative drop")
        )
    but_last = mean_of([drops[arm]["but last"] for arm in there])
    parts = [in_words("with the last item left in its place", but_last, percent=True)]
    if BASELINE in order:
        parts += [
            in_words(f"{BASELINE} itself loses", drops[BASELINE]["all"], percent=True),
            in_words("and with the last item left", drops[BASELINE]["but last"], percent=True),
        ]
    return Finding(
        9,
        contrast,
        primary.estimate(),
        seeds=fewest({arm: len(order[arm].true_SE) for arm in there}),
        made_of=f"Beside it: {', '.join(parts)}.",
        details={"unit": "relative drop", "beside": rows},
    )


def _drops(order: Mapping[str, OrderScores], users: Rows, *, draws: int, seed: int) -> dict[str, dict[str, Figure]]:
    """A run is compared with itself, so its seeds are drawn together."""
    scores: dict[str, Floats] = {}
    paired: dict[str, str] = {}
    for arm, measured in order.items():
        scores[f"{arm} true"] = measured.true_SE
        for what, values_SE in (("all", measured.all_SE), ("but last", measured.but_last_SE)):
            scores[f"{arm} {what}"] = values_SE
            paired[f"{arm} {what}"] = f"{arm} true"
    means = resample(scores, users, paired=paired, draws=draws, seed=seed)
    return {
        arm: {
            what: (means[f"{arm} {what}"]["all"] / means[f"{arm} true"]["all"]).times(-1.0).shifted(1.0)
            for what in SHUFFLES
        }
        for arm in order
    }
