"""What to deploy, by four rules, in fixed sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from offline.compare.arm import in_words

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
    with_random_weights: of the winners those that are not shown to be better than their twins with random weights.
    """

    candidates: tuple[Candidate, ...]
    new_items: float | None
    winners: tuple[str, ...]
    best_without: str | None
    promising: tuple[str, ...] = ()
    with_random_weights: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recommendation:
    """choice: the arm to deploy, None where nothing can be said. llm: whether a language model should be deployed.
    headline: one or two sentences. reasons: one per rule, in their order. better: where the choice needs no language
    model, the cheapest arm with one that is more accurate beyond chance."""

    choice: str | None
    llm: bool | None
    headline: str
    reasons: tuple[str, ...]
    better: str | None = None


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
        better=None if choice.llm or (worth := _cheapest_winner(evidence)) is None else worth.name,
    )


def _cheapest_winner(evidence: Evidence) -> Candidate | None:
    winners = [candidate for candidate in evidence.candidates if candidate.name in evidence.winners]
    return min(winners, key=lambda c: (c.cpu_ms if c.cpu_ms is not None else float("inf"), -c.ndcg10), default=None)


def _near_the_best(candidates: Sequence[Candidate], among: str) -> tuple[list[Candidate], str]:
    best = max(candidates, key=lambda candidate: candidate.ndcg10)
    eligible = [candidate for candidate in candidates if candidate.ndcg10 >= best.low]
    if len(eligible) == 1:
        alone = f"{in_words(best.name)} is best (NDCG@10 {best.ndcg10:.4f}), and nothing lies in its interval."
        return eligible, f"Quality: {among}{alone}"
    others = _names(candidate.name for candidate in eligible if candidate is not best)
    return (
        eligible,
        f"Quality: {among}{in_words(best.name)} is best (NDCG@10 {best.ndcg10:.4f}); in its interval too: {others}.",
    )


def _able_with_new_items(eligible: list[Candidate], share: float | None) -> tuple[list[Candidate], str]:
    if share is None:
        return eligible, "New items: how often they are chosen was not measured, so nothing was left out for them."
    if share <= NEW_ITEMS:
        return eligible, f"New items: {share:.0%} of later events choose one, too few to decide by."
    able = [candidate for candidate in eligible if candidate.cold]
    unknown = _names(candidate.name for candidate in eligible if candidate.cold is None)
    if able:
        names = _names(candidate.name for candidate in able)
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
        return choice, f"Cost: {in_words(choice.name)} takes {cost:.1f} ms of CPU per request."
    dearest = max(cost for cost, _ in timed)
    return (
        choice,
        f"Cost: {in_words(choice.name)} is the cheapest of them, {cost:.1f} ms of CPU per request (up to "
        f"{dearest:.1f}).",
    )


def _about_llm(evidence: Evidence, *, with_llm: bool, has_base: bool) -> str:
    if not with_llm:
        return "Language models: none was measured."
    if not has_base or evidence.best_without is None:
        return "Language models: nothing without one was measured, so it is not known whether one is needed."
    base = in_words(evidence.best_without)
    if not evidence.winners and evidence.promising:
        stand = "stands" if len(evidence.promising) == 1 else "stand"
        return (
            f"Language models: {_names(evidence.promising)} {stand} above {base}, the best row without one, but not "
            "beyond chance; more seeds would tell."
        )
    if not evidence.winners:
        return f"Language models: none is better than {base}, the best row without one, beyond chance."
    found = f"Language models: better than {base}, the best row without one, beyond chance: {_names(evidence.winners)}."
    if evidence.with_random_weights:
        found += (
            " Not shown to be better than the same with random weights, so that pretraining need not be what helps: "
            f"{_names(evidence.with_random_weights)}."
        )
    return found


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(in_words, names))


def _headline(choice: Candidate, evidence: Evidence, *, with_llm: bool, refused: bool) -> str:
    name = in_words(choice.name)
    if refused and evidence.promising:
        return f"Deploy {name} for now: a language model may be better, and that is not shown yet."
    if refused:
        return f"Do not deploy an LLM on this data: deploy {name}."
    if not with_llm:
        return f"Deploy {name}; no language model was compared."
    better = None if choice.llm else _cheapest_winner(evidence)
    if better is None:
        return f"Deploy {name}."
    more = f"{in_words(better.name)} is {better.ndcg10 / choice.ndcg10 - 1:.1%} more accurate, beyond chance"
    if better.cpu_ms is None or not choice.cpu_ms:
        return f"Deploy {name}, without a language model. {more}."
    times = better.cpu_ms / choice.cpu_ms
    return f"Deploy {name}, without a language model. {more}, at {times:.{0 if times >= 3 else 1}f} times the CPU."
