"""Claim 12: Contriever-Rec against the other three that could replace iLoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from offline.claims.claim import Finding, not_measured
from offline.claims.contrasts import Arms, beside, named
from offline.evaluation.resampling import least

CANDIDATE, OTHERS = "contriever", ("llm2vec", "e4srec", "llamarec")


def replacement(
    arms: Arms, *, cold: Sequence[Mapping[str, object]], training: Sequence[Mapping[str, object]]
) -> Finding:
    """The least of n_Contriever - n_f over LLM2Vec, E4SRec and LlamaRec, on warm events.

    cold, training: rows of claim 3 and of the training probe, shown beside it.
    """
    contrast = f"NDCG@10 of {CANDIDATE} minus the best of {named(OTHERS)}"
    lacking, there = arms.lacking(OTHERS), [name for name in OTHERS if not arms.lacking([name])]
    if arms.lacking([CANDIDATE]) or not there:
        return not_measured(12, contrast, f"there are no runs of {named(arms.lacking((CANDIDATE, *OTHERS)))}")
    means = {name: groups["all"] for name, groups in arms.means([CANDIDATE, *there]).items()}
    gains = {name: means[CANDIDATE] - means[name] for name in there}
    shown = {CANDIDATE, *OTHERS, "ilora"}
    return Finding(
        12,
        contrast,
        least(list(gains.values())),
        seeds=arms.seeds([CANDIDATE, *there]),
        least_seeds=arms.least_seeds([CANDIDATE, *there]),
        holds_back=f"there are no runs of {named(lacking)}" if lacking else "",
        details={
            "unit": "NDCG@10",
            "beside": [
                *(beside(f"{CANDIDATE} minus {name}", gain) for name, gain in gains.items()),
                *(row for row in cold if row.get("arm") in shown),
            ],
            "training_spread": {str(row["arm"]): row["sd_over_seeds_at_best_rate"] for row in training},
        },
    )
