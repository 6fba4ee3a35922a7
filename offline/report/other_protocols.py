"""Sections beside the headline: new items, time, and what the lists are like."""

from __future__ import annotations

from offline.compare.results import Results
from offline.report.blocks import Block, Section, Table, Text, Whisker, Whiskers
from offline.report.quality import whisker
from offline.report.wording import MISSING, plural, score, span


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
            f"{row.mrr:.3f}",
            f"{row.full_recall:.3f}",
            f"{row.full_mrr:.3f}",
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
                "whether its text, or what a family makes of it, finds it. First among the new items alone, then, in "
                "the last two columns, in the whole catalogue. Intervals over users and items, of one training per "
                "draw. Rows that know nothing of new items give all of them one score, and ties go to the lower row: "
                "what they find is the order of the catalogue."
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
                    "MRR@10",
                    "recall@10, whole catalogue",
                    "MRR@10, whole catalogue",
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
            Whiskers(tuple(whisker(row) for row in rows), "NDCG@10, mean per user, then over users"),
            Table(
                ("row", "NDCG@10", "95 % interval", "HR@10"),
                tuple((r.arm, score(r.ndcg10), span(r.low, r.high), score(r.hr10)) for r in rows),
            ),
            *_buckets(results, [row.arm for row in rows]),
        ],
    )


def _buckets(results: Results, arms: list[str]) -> list[Block]:
    """NDCG@10 of new and of known users and items."""
    if not results.buckets:
        return []
    new_users = next((b.share for b in results.buckets if b.name == "user new"), 0.0)
    told = (
        f"{new_users:.0%} of these events are of users without an event before that moment"
        + (": this is a test of new users. " if new_users > 0.5 else ". ")
        + "NDCG@10 by whether training knows the user and the item:"
    )
    rows = tuple(
        (arm, *(score(b.ndcg10[arm]) if arm in b.ndcg10 else MISSING for b in results.buckets)) for arm in arms
    )
    return [Text(told), Table(("row", *(f"{b.name} ({b.share:.0%})" for b in results.buckets)), rows)]


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
