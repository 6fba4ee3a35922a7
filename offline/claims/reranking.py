"""Claim 7: whether a second stage pays, in quality and in CPU time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from offline.claims.claim import Finding, not_measured
from offline.claims.contrasts import Arms, beside, named
from offline.claims.inputs import Reranking
from offline.evaluation.resampling import Figure, least

RERANKED, RETRIEVER, OTHER = "llamarec", "sasrec", "llamarec-verbalizer"


def reranking(arms: Arms, made: Reranking | None, cpu_ms: Mapping[str, float]) -> Finding:
    """(i) N_rerank - N_retriever > 0 and (ii) no row of a single stage has both NDCG@10 >= and CPU ms <=.

    (i) is the primary contrast. A row that costs no more and whose NDCG@10 is above by its interval, corrected for the
    number of such rows, contradicts the claim and becomes the contrast; one that is above by chance holds it back.
    """
    contrast = f"NDCG@10 of {RERANKED} minus its retriever"
    lacking = arms.lacking((RERANKED, RETRIEVER))
    if lacking or made is None:
        return not_measured(
            7, contrast, f"there are no runs of {named(lacking or [RERANKED])} with the weight they chose"
        )
    if made.weight == 0:
        why = "validation chose w = 0: the row is its retriever by construction and claims nothing"
        return not_measured(7, contrast, why, details={"w": 0.0})
    cheaper = _cheaper(arms, cpu_ms)
    names = list(dict.fromkeys([RERANKED, RETRIEVER, *cheaper, *([] if arms.lacking([OTHER]) else [OTHER])]))
    means = {name: groups["all"] for name, groups in arms.means(names).items()}
    gains = {name: means[RERANKED] - means[name] for name in names if name != RERANKED}
    gains[RETRIEVER] = arms.gain_over_own(RERANKED, RETRIEVER)
    dominating = [name for name in cheaper if gains[name].value <= 0]
    estimate, compared = gains[RETRIEVER].estimate(), [RERANKED, RETRIEVER]
    if cheaper and (worst := least([gains[name] for name in cheaper])).high < 0:
        compared = [RERANKED, *cheaper]
        best = max(cheaper, key=lambda name: means[name].value)
        estimate, contrast = worst, f"NDCG@10 of {RERANKED} minus the best cheaper row of one stage ({best})"
    return Finding(
        7,
        contrast,
        estimate,
        seeds=arms.seeds(compared),
        least_seeds=arms.least_seeds(compared),
        holds_back=_holds_back(dominating, cpu_ms),
        details={
            "unit": "NDCG@10",
            "w": made.weight,
            "G": _share_of_possible(gains[RETRIEVER], means[RETRIEVER], made.recall),
            "cpu_ms": {name: cpu_ms.get(name) for name in names},
            "dominated_by": dominating,
            "beside": [beside(f"{RERANKED} minus {name}", gain) for name, gain in gains.items()],
        },
    )


def _cheaper(arms: Arms, cpu_ms: Mapping[str, float]) -> list[str]:
    """Single-stage rows that cost no more and have the runs that a claim needs: one with fewer can contradict nothing,
    and is no reason to hold back either. The other ranker is a second stage too.
    """
    if RERANKED not in cpu_ms:
        return []
    rows = [name for name in arms.scores if name not in (RERANKED, OTHER) and name in cpu_ms]
    enough = [name for name in rows if arms.seeds([name]) >= min(arms.least_seeds([name]), arms.seeds([RERANKED]))]
    return [name for name in enough if cpu_ms[name] <= cpu_ms[RERANKED]]


def _holds_back(dominating: list[str], cpu_ms: Mapping[str, float]) -> str:
    if RERANKED not in cpu_ms:
        return f"nobody measured the CPU time of {RERANKED}"
    return f"{named(dominating)} reach at least as much at no more CPU time" if dominating else ""


def _share_of_possible(gain: Figure, retriever: Figure, recall: float) -> float | None:
    """G = (N_rerank - N_retriever) / (R@K - N_retriever)."""
    possible = recall - retriever.value
    share = gain.value / possible if possible > 0 else float("nan")
    return share if np.isfinite(share) else None
