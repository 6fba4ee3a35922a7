"""What to deploy, by four rules, in fixed sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NEW_ITEMS = 0.10


@dataclass(frozen=True, slots=True)
class Candidate:
    """An arm that could be served. low: of the 95 % interval of its NDCG@10. cpu_ms: of one request, None where it was
    not measured. cold: whether its recall of new items beats the nearest-neighbour rows, by itself or with the
    regression from item text; None where that was not measured.
    """

    name: str
    llm: bool
    ndcg10: float
    low: float
    cpu_ms: float | None = None
    cold: bool | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """new_items: share of test events under `temporal` whose item is new; None where that was not measured.
    winners: arms with a language model whose advantage over the best row without one is claimed; promising: those whose
    interval lies above it while nothing may be claimed (few seeds, many contrasts); best_without: that row.
    """

    candidates: tuple[Candidate, ...]
    new_items: float | None
    winners: tuple[str, ...]
    best_without: str | None
    promising: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recommendation:
    """choice: the arm to deploy, None where nothing can be said. llm: whether a language model should be deployed.
    headline: one sentence. reasons: one per rule, in their order."""

    choice: str | None
    llm: bool | None
    headline: str
    reasons: tuple[str, ...]


def recommend(evidence: Evidence) -> Recommendation:
    """The four rules, in order; every step says what it did."""
    candidates = evidence.candidates
    if not candidates:
        return Recommendation(None, None, "Nothing can be recommended: nothing was measured.", ())
    with_llm = any(candidate.llm for candidate in candidates)
    without = [candidate for candidate in candidates if not candidate.llm]
    refused = with_llm and bool(without) and not evidence.winners
    considered = without if refused else list(candidates)
    eligible, about_quality = _near_the_best(considered, "of what needs no language model, " if refused else "")
    eligible, about_new = _able_with_new_items(eligible, evidence.new_items)
    choice, about_cost = _cheapest(eligible)
    about_llm = _about_llm(evidence, with_llm=with_llm, has_base=bool(without))
    return Recommendation(
        choice.name,
        choice.llm if with_llm else None,
        _headline(choice, evidence, with_llm=with_llm, refused=refused),
        (about_quality, about_new, about_cost, about_llm),
    )


def _near_the_best(candidates: Sequence[Candidate], among: str) -> tuple[list[Candidate], str]:
    best = max(candidates, key=lambda candidate: candidate.ndcg10)
    eligible = [candidate for candidate in candidates if candidate.ndcg10 >= best.low]
    if len(eligible) == 1:
        alone = f"{best.name} is best (NDCG@10 {best.ndcg10:.4f}), and nothing lies in its interval."
        return eligible, f"Quality: {among}{alone}"
    others = ", ".join(candidate.name for candidate in eligible if candidate is not best)
    return eligible, f"Quality: {among}{best.name} is best (NDCG@10 {best.ndcg10:.4f}); in its interval too: {others}."


def _able_with_new_items(eligible: list[Candidate], share: float | None) -> tuple[list[Candidate], str]:
    if share is None:
        return eligible, "New items: how often they are chosen was not measured, so nothing was left out for them."
    if share <= NEW_ITEMS:
        return eligible, f"New items: {share:.0%} of later events choose one, too few to decide by."
    able = [candidate for candidate in eligible if candidate.cold]
    unknown = ", ".join(candidate.name for candidate in eligible if candidate.cold is None)
    if able:
        names = ", ".join(candidate.name for candidate in able)
        left = f" Left out, because that was not measured: {unknown}." if unknown else ""
        return able, f"New items: {share:.0%} of later events choose one; kept is what finds them: {names}.{left}"
    if all(candidate.cold is None for candidate in eligible):
        return eligible, f"New items: {share:.0%} of later events choose one; who finds them was not measured."
    left = f" (not measured: {unknown})" if unknown else ""
    return eligible, (
        f"New items: {share:.0%} of later events choose one, and nothing here finds them better than nearest texts "
        f"do{left}."
    )


def _cheapest(eligible: list[Candidate]) -> tuple[Candidate, str]:
    timed = [(candidate.cpu_ms, candidate) for candidate in eligible if candidate.cpu_ms is not None]
    if not timed:
        best = max(eligible, key=lambda candidate: candidate.ndcg10)
        return best, "Cost: no latency was measured, so quality decides."
    cost, choice = min(timed, key=lambda pair: (pair[0], -pair[1].ndcg10, pair[1].name))
    if len(eligible) == 1:
        return choice, f"Cost: {choice.name} takes {cost:.1f} ms of CPU per request."
    dearest = max(cost for cost, _ in timed)
    return (
        choice,
        f"Cost: {choice.name} is the cheapest of them, {cost:.1f} ms of CPU per request (up to {dearest:.1f}).",
    )


def _about_llm(evidence: Evidence, *, with_llm: bool, has_base: bool) -> str:
    if not with_llm:
        return "Language models: none was measured."
    if not has_base or evidence.best_without is None:
        return "Language models: nothing without one was measured, so it is not known whether one is needed."
    if not evidence.winners and evidence.promising:
        names = ", ".join(evidence.promising)
        stand = "stands" if len(evidence.promising) == 1 else "stand"
        return (
            f"Language models: {names} {stand} above {evidence.best_without}, the best row without one, but not beyond "
            "chance; more seeds would tell."
        )
    if not evidence.winners:
        return f"Language models: none is better than {evidence.best_without}, the best row without one, beyond chance."
    names = ", ".join(evidence.winners)
    return f"Language models: better than {evidence.best_without}, the best row without one, beyond chance: {names}."


def _headline(choice: Candidate, evidence: Evidence, *, with_llm: bool, refused: bool) -> str:
    if refused and evidence.promising:
        return f"Deploy {choice.name} for now: a language model may be better, and that is not shown yet."
    if refused:
        return f"Do not deploy an LLM on this data: deploy {choice.name}."
    if not with_llm:
        return f"Deploy {choice.name}; no language model was compared."
    if choice.llm:
        return f"Deploy {choice.name}."
    return (
        f"Deploy {choice.name}, without a language model: one is more accurate beyond chance "
        f"({', '.join(evidence.winners)}), but by so little that the rules below prefer what costs less."
    )
