"""The top of the page: what a person in a hurry reads."""

from __future__ import annotations

from dataclasses import dataclass

from offline.compare.arm import in_words
from offline.compare.arms import BY_NAME
from offline.compare.contrasts import OWNERS, Judged, judged_of
from offline.compare.results import Results
from offline.compare.rows import Row
from offline.report.wording import milliseconds, percent_span, score


@dataclass(frozen=True, slots=True)
class Tile:
    name: str
    value: str
    note: str


def tiles(results: Results) -> list[Tile]:
    """The row to deploy, the best with a language model, what is between the two, and what changes against today."""
    rows = {row.arm: row for row in results.warm}
    chosen = rows.get(results.recommendation.choice or "")
    if chosen is None:
        return []
    cost = f", {milliseconds(chosen.costs.get('request_cpu_ms'))} ms of CPU per request" if chosen.costs else ""
    found = [Tile("Deploy", in_words(chosen.arm), f"NDCG@10 {score(chosen.ndcg10)}{cost}")]
    other = rows.get(results.recommendation.better or "") or _best(results, llm=not chosen.llm)
    if other is not None:
        name = "With a language model" if other.llm else "Without a language model"
        cost = f", {milliseconds(other.costs.get('request_cpu_ms'))} ms" if other.costs else ""
        found.append(Tile(name, in_words(other.arm), f"NDCG@10 {score(other.ndcg10)}{cost}"))
        llm, plain = (other, chosen) if other.llm else (chosen, other)
        found += _between(llm, plain, results.contrasts)
    found += _against_today(chosen, results.contrasts)
    return found


def _against_today(chosen: Row, contrasts: list[Judged]) -> list[Tile]:
    judged = judged_of(contrasts, chosen.arm, OWNERS)
    if judged is None:
        return []
    c = judged.contrast
    note = f"{percent_span(c.relative_low, c.relative_high)}, {in_words(chosen.arm)} against it"
    return [Tile("If you run iLoRA today", f"{100 * c.relative:+.1f} %", note)]


def _best(results: Results, *, llm: bool) -> Row | None:
    rows = [
        row for row in results.warm if row.llm == llm and (row.role != "control" or not llm) and row.same_as is None
    ]
    return rows[0] if rows else None


def _between(llm: Row, plain: Row, contrasts: list[Judged]) -> list[Tile]:
    judged = judged_of(contrasts, llm.arm, plain.arm)
    if judged is None:
        return []
    c = judged.contrast
    interval = percent_span(c.relative_low, c.relative_high)
    if judged.claimed:
        verdict = "beyond chance"
    elif c.difference_low <= 0 <= c.difference_high:
        verdict = "cannot be told apart"
    else:
        verdict = judged.why_not or "not one of the contrasts that claims are made of"
    note = f"{interval}: {verdict}{_with_random_weights(llm, plain, contrasts)}"
    return [Tile("What that gains", f"{100 * c.relative:+.1f} %", note)]


def _with_random_weights(llm: Row, plain: Row, contrasts: list[Judged]) -> str:
    """What the same gains whose language model has learnt nothing: a network more is not yet what a text taught it."""
    judged = judged_of(contrasts, BY_NAME[llm.arm].twin, plain.arm)
    return "" if judged is None else f"; with random weights {100 * judged.contrast.relative:+.1f} %"
