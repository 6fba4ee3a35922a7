"""Claims 8 and 10: one family with different item sides, or different inputs."""

from __future__ import annotations

from offline.claims.claim import Finding, not_measured
from offline.claims.contrasts import Arms, beside, named
from offline.evaluation.resampling import least

SASREC_SPACE = "ilora-sasrec"
COMMON_SPACE = ("ilora", "ilora-common-text", "ilora-common-text+id")  # items by ID, by text, by both
TOGETHER, ALONE = "e4srec-sum", ("e4srec-id", "e4srec-text")


def projector(arms: Arms) -> Finding:
    """iLoRA in a common space with an ID tower minus iLoRA in SASRec's space, the same user side. Claim 8."""
    contrast = f"NDCG@10 of {COMMON_SPACE[0]} minus {SASREC_SPACE}"
    lacking = arms.lacking((COMMON_SPACE[0], SASREC_SPACE))
    if lacking:
        return not_measured(8, contrast, f"there are no runs of {named(lacking)}")
    there = [name for name in COMMON_SPACE if not arms.lacking([name])]
    means = {name: groups["all"] for name, groups in arms.means([*there, SASREC_SPACE]).items()}
    gains = {name: means[name] - means[SASREC_SPACE] for name in there}
    return Finding(
        8,
        contrast,
        gains[COMMON_SPACE[0]].estimate(),
        seeds=arms.seeds((COMMON_SPACE[0], SASREC_SPACE)),
        least_seeds=arms.least_seeds((COMMON_SPACE[0], SASREC_SPACE)),
        details={
            "unit": "NDCG@10",
            "beside": [beside(f"{name} minus {SASREC_SPACE}", gains[name]) for name in there[1:]],
        },
    )


def id_and_text(arms: Arms) -> Finding:
    """E4SRec that reads ID and text minus the better of those that read one of them. Claim 10."""
    contrast = f"NDCG@10 of {TOGETHER} minus the better of {named(ALONE)}"
    lacking, there = arms.lacking(ALONE), [name for name in ALONE if not arms.lacking([name])]
    if arms.lacking([TOGETHER]) or not there:
        return not_measured(10, contrast, f"there are no runs of {named(arms.lacking((TOGETHER, *ALONE)))}")
    means = {name: groups["all"] for name, groups in arms.means([TOGETHER, *there]).items()}
    gains = {name: means[TOGETHER] - means[name] for name in there}
    return Finding(
        10,
        contrast,
        least(list(gains.values())),
        seeds=arms.seeds([TOGETHER, *there]),
        least_seeds=arms.least_seeds([TOGETHER, *there]),
        holds_back=f"there are no runs of {named(lacking)}" if lacking else "",
        details={
            "unit": "NDCG@10",
            "beside": [beside(f"{TOGETHER} minus {name}", gain) for name, gain in gains.items()],
        },
    )
