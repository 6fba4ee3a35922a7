"""The top of the page: what a person in a hurry reads."""

from __future__ import annotations

from dataclasses import dataclass

from offline.compare.contrasts import Judged
from offline.compare.results import Results
from offline.compare.rows import Row
from offline.report.wording import milliseconds, percent_span, score, span


@dataclass(frozen=True, slots=True)
class Tile:
    name: str
    value: str
    note: str


def tiles(results: Results) -> list[Tile]:
    """The row to deploy, the best with and without a language model, and what is between the two."""
    rows = {row.arm: row for row in results.warm}
    chosen = rows.get(results.recommendation.choice or "")
    plain = _best(results, llm=False)
    llm = _best(results, llm=True)
    found = []
    if chosen is not None:
        cost = f", {milliseconds(chosen.costs.get('request_cpu_ms'))} ms of CPU per request" if chosen.costs else ""
        found.append(Tile("Deploy", chosen.arm, f"{chosen.variant}{cost}"))
    found += [
        Tile(name, row.arm, f"NDCG@10 {score(row.ndcg10)} ({span(row.low, row.high)})")
        for name, row in (("Best without a language model", plain), ("Best with a language model", llm))
        if row is not None
    ]
    if plain is not None and llm is not None:
        found += _between(llm, plain, results.contrasts)
    return found


def _best(results: Results, *, llm: bool) -> Row | None:
    rows = [
        row for row in results.warm if row.llm == llm and (row.role != "control" or not llm) and row.same_as is None
    ]
    return rows[0] if rows else None


def _between(llm: Row, plain: Row, contrasts: list[Judged]) -> list[Tile]:
    judged = next((j for j in contrasts if (j.contrast.family, j.contrast.base) == (llm.arm, plain.arm)), None)
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
    return [Tile("Between the two", f"{100 * c.relative:+.1f} %", f"{interval}: {verdict}")]
