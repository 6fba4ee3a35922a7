"""Claim 13: the pretrained language model against random weights of the same shape, trained alike."""

from __future__ import annotations

from offline.claims.claim import Finding, not_measured
from offline.claims.contrasts import Arms, beside, in_words, mean_named, named
from offline.evaluation.resampling import mean_of

FAMILIES = ("e4srec", "contriever")
SHOWN = (*FAMILIES, "ilora", "llm2vec")


def pretraining(arms: Arms) -> Finding:
    """Pretrained minus random, mean of E4SRec and Contriever; each, and others that have such a twin, beside it.

    The mean, because the claim is about the language model and not about one way to use it: a gain in one family that
    is a loss in the other is no contribution that a person could count on.
    """
    there = [name for name in SHOWN if not arms.lacking((name, _random(name)))]
    judged = [name for name in FAMILIES if name in there]
    contrast = f"NDCG@10 of pretrained minus random weights, {mean_named(judged or FAMILIES)}"
    if not judged:
        lacking = arms.lacking([each for name in FAMILIES for each in (name, _random(name))])
        return not_measured(13, contrast, f"there are no runs of {named(lacking)}")
    names = [each for name in there for each in (name, _random(name))]
    # A residual's twins stand beside the same SASRec, seed by seed; rows of one seed may always be drawn together.
    paired = {_random(name): name for name in there if arms.runs[name] == arms.runs[_random(name)]}
    means = {name: groups["all"] for name, groups in arms.means(names, paired=paired).items()}
    gains = {name: means[name] - means[_random(name)] for name in there}
    compared = [each for name in judged for each in (name, _random(name))]
    lacking = [name for name in FAMILIES if name not in judged]
    parts = " and ".join(in_words(name, gains[name]) for name in judged)
    return Finding(
        13,
        contrast,
        mean_of([gains[name] for name in judged]).estimate(),
        seeds=arms.seeds(compared),
        least_seeds=arms.least_seeds(compared),
        holds_back=f"there are no runs of {named(lacking)} and its twin" if lacking else "",
        made_of=f"By family: {parts}." if len(judged) > 1 else "",
        details={
            "unit": "NDCG@10",
            "lacking": lacking,
            "beside": [beside(f"{name} minus {_random(name)}", gain) for name, gain in gains.items()],
        },
    )


def _random(name: str) -> str:
    return f"{name}-random"
