"""The section about the headline: how good each row is."""

from __future__ import annotations

from offline.compare.results import Results
from offline.compare.rows import Row
from offline.report.blocks import Block, Folded, Section, Table, Text, Whisker, Whiskers
from offline.report.wording import kind_of, score, span


def warm(results: Results) -> Section:
    rows = results.warm
    blocks: list[Block] = [
        Text(
            "Every test event asks: which item comes next? HR@10 is how often it is among the ten that are shown; "
            "NDCG@10 "
            "also counts how high it stands. Dot: mean over seeds. Line: 95 % interval over users and seeds. Two lines "
            "that overlap may still differ: the next section compares pairs on the same events."
        ),
        Whiskers(tuple(whisker(row) for row in rows), "NDCG@10"),
        Table(
            ("row", "what it is", "seeds", "NDCG@10", "95 % interval", "HR@10", "chosen on validation"),
            tuple(
                (
                    row.arm,
                    row.variant,
                    str(row.seeds),
                    score(row.ndcg10),
                    span(row.low, row.high),
                    score(row.hr10),
                    _chosen(row),
                )
                for row in rows
            ),
            marked=frozenset(n for n, row in enumerate(rows) if row.arm == results.recommendation.choice),
            words=frozenset({0, 1, 6}),
        ),
    ]
    blocks += _seen_left_in(results)
    return Section("warm", "How good is each?", blocks)


def whisker(row: Row) -> Whisker:
    return Whisker(row.arm, row.variant, kind_of(row), row.ndcg10, row.low, row.high, score(row.ndcg10))


def _chosen(row: Row) -> str:
    if row.same_as is not None:
        return f"weight 0: this is {row.same_as}, and claims nothing"
    names = list(dict.fromkeys(name for choice in row.choices for name in choice))
    return "; ".join(f"{name} {', '.join(_short(choice.get(name)) for choice in row.choices)}" for name in names)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ":".join(_short(each) for each in value)
    return str(value)


def _seen_left_in(results: Results) -> list[Block]:
    provenance = results.provenance
    kept = [r for r in results.rows if r.protocol == provenance.headline and r.seen_removed != provenance.seen_removed]
    if not kept:
        return []
    kept.sort(key=lambda row: -row.ndcg10)
    cells = tuple(
        (row.arm, str(row.seeds), score(row.ndcg10), span(row.low, row.high), score(row.hr10)) for row in kept
    )
    table = Table(("row", "seeds", "NDCG@10", "95 % interval", "HR@10"), cells)
    why = "The same with items left in that a user has chosen before; other papers report this, and it is lower"
    return [Folded(why, (table,))]
