"""Which differences the page looks at, which of them it may claim, and which arms are compared at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from offline.compare.arms import BY_NAME
from offline.compare.rows import same_as
from offline.compare.scores import ArmScores
from offline.evaluation.bootstrap import Contrast, compare, holm
from offline.evaluation.resampling import DRAWS

LEAST_SEEDS = 5
LEAST_SLOW_SEEDS = 3
SLOW_MINUTES = 20.0
ALWAYS_AGAINST = ("sasrec", "ease-recency")
FUSION_WITHOUT_LLM = "sasrec+ease"


@dataclass(frozen=True, slots=True)
class Judged:
    """A contrast, whether it is one of the page's primary ones, and whether the page claims a difference.

    p_holm of the contrast is over the primary ones; of any other it is its unadjusted p, and nothing is claimed.
    why_not: of a primary contrast that is not claimed although its interval excludes 0.
    """

    contrast: Contrast
    primary: bool
    claimed: bool
    why_not: str = ""


def best_without_llm(scores: Mapping[str, ArmScores]) -> str | None:
    """The arm with the best mean of those in which no language model takes part."""
    means = {name: float(s.ndcg10_SE.mean()) for name, s in scores.items() if not BY_NAME[name].llm}
    return max(means, key=lambda name: means[name], default=None)


def judge(scores: Mapping[str, ArmScores], *, draws: int = DRAWS) -> list[Judged]:
    """Every arm against SASRec, recency-weighted EASE and the best row without a language model; pretrained against
    random weights. Holm's adjustment runs over the primary ones: what a team would choose between.
    """
    pairs = _pairs(scores)
    if not pairs:
        return []
    found = _compared(scores, list(pairs), draws=draws)
    adjusted = iter(holm([c.p for c, primary in zip(found, pairs.values(), strict=True) if primary]))
    return [
        _judged(replace(c, p_holm=next(adjusted) if primary else c.p), scores, primary=primary)
        for c, primary in zip(found, pairs.values(), strict=True)
    ]


def adjusted_with(judged: list[Judged], others: Sequence[float], scores: Mapping[str, ArmScores]) -> list[Judged]:
    """The same, with Holm's adjustment over the primary ones and `others`, p of the claims on the same page."""
    adjusted = iter(holm([*(j.contrast.p for j in judged if j.primary), *others]))
    return [
        _judged(replace(j.contrast, p_holm=next(adjusted)), scores, primary=True) if j.primary else j for j in judged
    ]


def _pairs(scores: Mapping[str, ArmScores]) -> dict[tuple[str, str], bool]:
    """(arm, base) -> whether it is primary, in the order of the arms."""
    bases = [name for name in dict.fromkeys([*ALWAYS_AGAINST, best_without_llm(scores)]) if name in scores]
    pairs: dict[tuple[str, str], bool] = {}
    for name in scores:
        arm = BY_NAME[name]
        chosen_between = arm.role == "family" or (arm.role == "fusion" and arm.llm)
        pairs |= {(name, base): chosen_between for base in bases if base is not None and base != name}
        if arm.role == "fusion" and arm.llm and FUSION_WITHOUT_LLM in scores:
            pairs.setdefault((name, FUSION_WITHOUT_LLM), False)
        if arm.twin in scores and arm.twin is not None:
            pairs[name, arm.twin] = True
    return pairs


def _compared(scores: Mapping[str, ArmScores], pairs: list[tuple[str, str]], *, draws: int) -> list[Contrast]:
    """In the order given. An arm that adds to some of its base's runs is compared with those alone: against the mean of
    all, the luck of the runs it was added to would count as its own.
    """
    first = next(iter(scores.values()))
    values = {name: arm.ndcg10_SE for name, arm in scores.items()}
    together = compare(
        values, first.users_E, contrasts=pairs, paired=_paired(scores), draws=draws, weights=first.weights_E
    )
    found = dict(zip(pairs, together, strict=True))
    for name, base in pairs:
        runs, known = scores[name].seeds, scores[base].seeds
        if BY_NAME[name].beside == base and runs != known and set(runs) <= set(known):
            own = {name: values[name], base: values[base][[known.index(seed) for seed in runs]]}
            (found[name, base],) = compare(
                own,
                first.users_E,
                contrasts=[(name, base)],
                paired={name: base},
                draws=draws,
                weights=first.weights_E,
            )
    return list(found.values())


def _paired(scores: Mapping[str, ArmScores]) -> dict[str, str]:
    """Arms that add to an answer of the same seed are drawn together with it."""
    beside = {name: BY_NAME[name].beside for name in scores}
    return {n: b for n, b in beside.items() if b is not None and b in scores and scores[b].seeds == scores[n].seeds}


def _judged(contrast: Contrast, scores: Mapping[str, ArmScores], *, primary: bool) -> Judged:
    seeds = [len(scores[name].seeds) for name in (contrast.family, contrast.base) if BY_NAME[name].drawn]
    slow = any(_minutes(scores[name]) > SLOW_MINUTES for name in (contrast.family, contrast.base))
    least = LEAST_SLOW_SEEDS if slow else LEAST_SEEDS
    enough = min(seeds, default=least) >= least
    excludes_zero = contrast.difference_low > 0 or contrast.difference_high < 0
    itself = same_as(scores[contrast.family])
    claimed = primary and excludes_zero and enough and contrast.p_holm <= 0.05 and itself is None
    why_not = ""
    if primary and excludes_zero and itself is not None:
        why_not = f"by the weights it chose it is {itself}"
    elif primary and excludes_zero and not claimed:
        why_not = (
            "within chance among this page's contrasts" if enough else f"{min(seeds)} seeds; a claim needs {least}"
        )
    return Judged(replace(contrast, seeds=min(seeds, default=1)), primary, claimed, why_not)


def _minutes(scores: ArmScores) -> float:
    seconds = [meta.train_seconds or 0.0 for meta in scores.metas]
    return sum(seconds) / len(seconds) / 60
