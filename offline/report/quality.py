"""Sections about quality: warm rows, contrasts, cold items, time, and what the lists are like."""

from __future__ import annotations

from offline.bootstrap import Contrast
from offline.compare.contrasts import Judged
from offline.compare.results import Results
from offline.compare.rows import Row
from offline.report.blocks import Block, Section, Table, Text, Whisker, Whiskers
from offline.report.wording import (
    MISSING,
    chance,
    kind_of,
    percent,
    percent_span,
    plural,
    relative,
    score,
    span,
)


def warm(results: Results) -> Section:
    rows = results.warm
    blocks: list[Block] = [
        Text(
            "Every test event asks: which item comes next? HR@10 is how often it is among the ten that are shown; "
            "NDCG@10 "
            "also counts how high it stands. Dot: mean over seeds. Line: 95 % interval over users and seeds. Two lines "
            "that overlap may still differ: the next section compares pairs on the same events."
        ),
        Whiskers(tuple(_whisker(row) for row in rows), "NDCG@10"),
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


def _whisker(row: Row) -> Whisker:
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
    return [
        Text("The same with items left in that a user has chosen before; other papers report this, and it is lower."),
        Table(("row", "seeds", "NDCG@10", "95 % interval", "HR@10"), cells),
    ]


def contrasts(results: Results) -> Section:
    primary = [judged for judged in results.contrasts if judged.primary]
    others = [judged for judged in results.contrasts if not judged.primary]
    kinds = {row.arm: kind_of(row) for row in results.warm}
    blocks: list[Block] = [
        Text(
            "Paired: the same users and events on both sides, relative to the right-hand row. A difference is "
            "claimed when "
            f"its p, adjusted by Holm's method over the {plural(len(primary), 'contrast')} of this table, is at "
            f"most .05, "
            "and either side has five runs (three where one takes over 20 minutes)."
        )
    ]
    if primary:
        drawn = [j for j in primary if j.contrast.relative == j.contrast.relative]
        blocks.append(
            Whiskers(
                tuple(
                    Whisker(
                        f"{j.contrast.family} against {j.contrast.base}",
                        "",
                        kinds[j.contrast.family],
                        j.contrast.relative,
                        j.contrast.relative_low,
                        j.contrast.relative_high,
                        percent(j.contrast.relative),
                    )
                    for j in drawn
                ),
                "relative difference of NDCG@10",
                line=0.0,
                percent=True,
            )
        )
        blocks.append(_contrast_table(primary))
    if others:
        blocks += [
            Text("All other pairs, unadjusted: to look at, not to claim."),
            Table(
                ("pair", "relative NDCG@10", "95 % interval", "smallest detectable"),
                tuple(
                    (_pair(j.contrast), percent(j.contrast.relative), _interval(j.contrast), _detectable(j.contrast))
                    for j in others
                ),
            ),
        ]
    return Section("contrasts", "Which differences are real?", blocks)


def _contrast_table(primary: list[Judged]) -> Table:
    return Table(
        ("pair", "relative NDCG@10", "95 % interval", "adjusted p", "smallest detectable", "verdict"),
        tuple(
            (
                _pair(j.contrast),
                percent(j.contrast.relative),
                _interval(j.contrast),
                chance(j.contrast.p_holm),
                _detectable(j.contrast),
                _verdict(j),
            )
            for j in primary
        ),
        marked=frozenset(n for n, j in enumerate(primary) if j.claimed),
        words=frozenset({0, 5}),
    )


def _pair(c: Contrast) -> str:
    return f"{c.family} against {c.base}"


def _interval(c: Contrast) -> str:
    return percent_span(c.relative_low, c.relative_high)


def _detectable(c: Contrast) -> str:
    return f"{100 * c.detectable_relative:.1f} %" if c.detectable_relative == c.detectable_relative else MISSING


def _verdict(judged: Judged) -> str:
    c = judged.contrast
    if judged.claimed:
        return "better" if c.difference > 0 else "worse"
    return f"not claimed: {judged.why_not}" if judged.why_not else "cannot be told apart"


def cold(results: Results) -> Section:
    if not results.cold:
        return Section("cold", "New items", [Text("Not measured.")])
    rows = sorted(results.cold, key=lambda row: -row.recall)
    table = tuple(
        (
            row.arm,
            row.variant,
            f"{row.recall:.3f}",
            f"{row.low:.3f} to {row.high:.3f}",
            MISSING
            if row.against_nearest is None
            else f"{row.against_nearest[0]:+.3f} ({row.against_nearest[1]:+.3f} to {row.against_nearest[2]:+.3f})",
            f"{row.full_recall:.3f}",
            f"{row.mrr:.3f}",
        )
        for row in rows
    )
    return Section(
        "cold",
        "New items",
        [
            Text(
                f"One item in ten was taken out of everything that is fitted, {plural(rows[0].draws, 'time')}; "
                f"asked is "
                "whether its text, or what a family makes of it, finds it. Left: among the new items alone. "
                "Right: in the "
                "whole catalogue. Intervals over users and items."
            ),
            Whiskers(
                tuple(
                    Whisker(r.arm, r.variant, "llm" if r.llm else "plain", r.recall, r.low, r.high, f"{r.recall:.3f}")
                    for r in rows
                ),
                "recall@10 among new items",
            ),
            Table(
                (
                    "row",
                    "what it is",
                    "recall@10",
                    "95 % interval",
                    "against TF-IDF",
                    "in the whole catalogue",
                    "MRR@10",
                ),
                table,
                words=frozenset({0, 1}),
            ),
        ],
    )


def temporal(results: Results) -> Section:
    rows = sorted(
        (r for r in results.rows if r.protocol == "temporal" and r.seen_removed == results.provenance.seen_removed),
        key=lambda r: -r.ndcg10,
    )
    if not rows:
        return Section("temporal", "Trained before, asked after", [Text("Not measured.")])
    share = "" if results.new_items is None else f" {results.new_items:.0%} of these events choose an item that is new."
    return Section(
        "temporal",
        "Trained before, asked after",
        [
            Text(
                "Everything is fitted to the past of one moment and asked about what came after it, up to ten "
                "events per "
                f"user, with one seed each: to look at, not to claim.{share}"
            ),
            Whiskers(tuple(_whisker(row) for row in rows), "NDCG@10, mean per user, then over users"),
            Table(
                ("row", "NDCG@10", "95 % interval", "HR@10"),
                tuple((r.arm, score(r.ndcg10), span(r.low, r.high), score(r.hr10)) for r in rows),
            ),
        ],
    )


def lists(results: Results) -> Section:
    rows = [row for row in results.warm if row.lists]
    if not rows:
        return Section("lists", "What the lists are like", [Text("Not measured.")])
    names = [name for name in rows[0].lists if all(name in row.lists for row in rows)]
    return Section(
        "lists",
        "What the lists are like",
        [
            Text(
                "Coverage: share of the catalogue that anybody is shown. Gini: how unequally (0 = all alike). "
                "Novelty: how "
                "rare the shown items are, in bits. Diversity: how different from each other. Calibration: how "
                "far from the "
                "user's own mix of categories (0 = the same)."
            ),
            Table(
                ("row", *(name.removesuffix("@10") for name in names)),
                tuple((row.arm, *(f"{row.lists[name]:.3f}" for name in names)) for row in rows),
            ),
        ],
    )


__all__ = ["cold", "contrasts", "lists", "relative", "temporal", "warm"]
