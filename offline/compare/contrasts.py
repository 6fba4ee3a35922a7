"""Which differences the page looks at, which of them it may claim, and which arms are compared at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from offline.claims.claim import LEAST_SEEDS, Claim, least_seeds
from offline.compare.arms import BY_NAME
from offline.compare.rows import same_as
from offline.compare.scores import ArmScores
from offline.evaluation.bootstrap import Contrast, compare, holm
from offline.evaluation.resampling import DRAWS

ALWAYS_AGAINST = ("sasrec", "ease-recency")
FUSION_WITHOUT_LLM = "sasrec+ease"
# What the owner runs: a language model that reads SASRec's vectors and answers in SASRec's space. And as many models as
# fusions with a language model hold. Shown, not claimed about.
OWNERS = "ilora-sasrec"
SHOWN_AGAINST = (OWNERS, "sasrec+sasrec+ease")


@dataclass(frozen=True, slots=True)
class Judged:
    """A contrast, whether it is one of the page's primary ones, and whether the page claims a difference.

    p_holm of the contrast is over the primary ones; of any other it is its unadjusted p, and nothing is claimed.
    why_not: of a primary contrast that is not claimed although its interval excludes 0. counted: whether it could be:
    each side has runs enough, and is no other row by the weights it chose.
    """

    contrast: Contrast
    primary: bool
    claimed: bool
    why_not: str = ""
    counted: bool = True


def judged_of(judged: Iterable[Judged], arm: str | None, base: str) -> Judged | None:
    """How this arm stands against that one, where the page says it."""
    return next((j for j in judged if (j.contrast.family, j.contrast.base) == (arm, base)), None)


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
    primaries = [c for c, primary in zip(found, pairs.values(), strict=True) if primary]
    adjusted = iter(holm([c.p for c in primaries], [_counted(c, scores) for c in primaries]))
    return [
        _judged(replace(c, p_holm=next(adjusted) if primary else c.p), scores, primary=primary)
        for c, primary in zip(found, pairs.values(), strict=True)
    ]


def p_of_contrasts(judged: Sequence[Judged]) -> list[float]:
    """Of the primary ones, for an adjustment that others share: 1 where nothing may be claimed."""
    return [j.contrast.p if j.counted else 1.0 for j in judged if j.primary]


def p_of_claims(claims: Sequence[Claim]) -> list[float]:
    """Of what was measured; 1 where nothing may be claimed."""
    return [claim.p if claim.counted else 1.0 for claim in claims if claim.p is not None]


def adjusted_with(judged: list[Judged], others: Sequence[float], scores: Mapping[str, ArmScores]) -> list[Judged]:
    """The same, with Holm's adjustment over the primary ones and `others`, `p_of_claims` of the same page."""
    primaries = [j for j in judged if j.primary]
    counted = [*(j.counted for j in primaries), *(True for _ in others)]
    adjusted = iter(holm([*(j.contrast.p for j in primaries), *others], counted))
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
        for base in SHOWN_AGAINST:
            if base in scores and base != name:
                pairs.setdefault((name, base), False)
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
    found, counted = _runs(contrast, scores), _counted(contrast, scores)
    excludes_zero = contrast.difference_low > 0 or contrast.difference_high < 0
    itself = same_as(scores[contrast.family])
    claimed = primary and excludes_zero and counted and contrast.p_holm <= 0.05
    why_not = ""
    if primary and excludes_zero and itself is not None:
        why_not = f"by the weights it chose it is {itself}"
    elif primary and excludes_zero and not claimed:
        why_not = (
            "within chance among this page's contrasts"
            if counted
            else f"{found} seeds; a claim needs {_least(contrast, scores)}"
        )
    return Judged(replace(contrast, seeds=found), primary, claimed, why_not, counted)


def _runs(contrast: Contrast, scores: Mapping[str, ArmScores]) -> int:
    """The fewest of either side; what is not drawn needs no second one."""
    sides = (contrast.family, contrast.base)
    return min((len(scores[name].seeds) for name in sides if BY_NAME[name].drawn), default=LEAST_SEEDS)


def _least(contrast: Contrast, scores: Mapping[str, ArmScores]) -> int:
    return least_seeds(_minutes(scores[name]) for name in (contrast.family, contrast.base))


def _counted(contrast: Contrast, scores: Mapping[str, ArmScores]) -> bool:
    return _runs(contrast, scores) >= _least(contrast, scores) and same_as(scores[contrast.family]) is None


def _minutes(scores: ArmScores) -> float:
    seconds = [meta.train_seconds or 0.0 for meta in scores.metas]
    return sum(seconds) / len(seconds) / 60
