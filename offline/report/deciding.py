"""Sections for whoever has to decide: what changes against what runs today, and how to serve the choice."""

from __future__ import annotations

from collections.abc import Sequence

from offline.compare.arm import in_words
from offline.compare.arms import BY_NAME
from offline.compare.cold import REGRESSION
from offline.compare.contrasts import OWNERS
from offline.compare.results import Results
from offline.compare.rows import Row
from offline.evaluation.bootstrap import Contrast
from offline.report.blocks import Block, Commands, Section, Table, Text
from offline.report.wording import MISSING, milliseconds, percent, percent_span, score


def serve(results: Results) -> Section:
    """Empty where nothing is chosen, or its versions are not known."""
    rows = {row.arm: row for row in results.warm}
    chosen = rows.get(results.recommendation.choice or "")
    title = "Serve it"
    if chosen is None or not chosen.versions:
        return Section("serve", title, [Text("Nothing to serve: nothing was chosen.")])
    version = chosen.versions[0]
    blocks: list[Block] = [
        Text(
            f"{in_words(chosen.arm)} is in the store as it was measured, without everybody's last choices. The first "
            "command fits it, and what it is made of, again to every event, and makes that live; running services "
            "follow. The second makes live exactly what was measured."
        ),
        Commands((f"python -m offline ship {version} --activate", f"python -m model_store activate {version}")),
    ]
    better = rows.get(results.recommendation.better or "")
    if better is not None and better.versions:
        blocks += [
            Text(f"If the more accurate {in_words(better.arm)} is worth its CPU time to you:"),
            Commands((f"python -m offline ship {better.versions[0]} --activate",)),
        ]
    gaps = _gaps(results, chosen.arm)
    blocks.append(
        Text(f"Runs of one row differ by chance alone; named is the first. Of the chosen row not measured: {gaps}")
    )
    return Section("serve", title, blocks)


def _gaps(results: Results, arm: str) -> str:
    """What of the other protocols nobody asked it, in words."""
    temporal = any(row.arm == arm and row.protocol == "temporal" for row in results.rows)
    cold = any(row.arm in (arm, arm + REGRESSION) for row in results.cold)
    gaps = [] if temporal else ["how it does after the time it was trained on"]
    gaps += [] if cold else ["new items"]
    return " and ".join(gaps) + "." if gaps else "nothing."


def today(results: Results) -> Section:
    """Everything that a team would choose, against the iLoRA that translates into SASRec's space."""
    against = {j.contrast.family: j.contrast for j in results.contrasts if j.contrast.base == OWNERS}
    shown = [row for row in results.warm if row.arm in against and _chosen_between(row.arm, results)]
    base = next((row for row in results.warm if row.arm == OWNERS), None)
    title = "If you run iLoRA today"
    if base is None or not shown:
        return Section("today", title, [Text("Not measured.")])
    recall = {row.arm: row.recall for row in results.cold}
    lines = [
        (
            in_words(row.arm),
            row.variant,
            percent(against[row.arm].relative),
            percent_span(against[row.arm].relative_low, against[row.arm].relative_high),
            score(row.ndcg10),
            _cpu(row, results),
            _best_recall(recall, row.arm),
        )
        for row in shown
    ]
    own = (
        in_words(base.arm),
        base.variant,
        "0",
        "",
        score(base.ndcg10),
        _cpu(base, results),
        _best_recall(recall, base.arm),
    )
    elsewhere = any(line[5].endswith("*") for line in [*lines, own])
    return Section(
        "today",
        title,
        [
            Text(
                "iLoRA as it is usually built reads histories with a language model and answers in SASRec's space "
                f"(row {OWNERS}). Each line: what replaces it, on the same users and events, with unadjusted intervals."
                f"{' CPU times with * are of another machine.' if elsewhere else ''}"
            ),
            Text(_said([against[name] for name in ("e4srec", "llamarec", "contriever", "llm2vec") if name in against])),
            Table(
                ("row", "what it is", "against it", "95 % interval", "NDCG@10", "CPU ms", "new items, recall@10"),
                (*lines, own),
                marked=frozenset(n for n, row in enumerate(shown) if row.arm == results.recommendation.choice),
                words=frozenset({0, 1}),
            ),
        ],
    )


def _chosen_between(arm: str, results: Results) -> bool:
    return BY_NAME[arm].role in ("family", "fusion") or arm == results.recommendation.choice


def _cpu(row: Row, results: Results) -> str:
    """Milliseconds of a request, with the mark of what was timed elsewhere; what was not timed at all has no mark."""
    cost = row.costs.get("request_cpu_ms")
    return MISSING if cost is None else milliseconds(cost) + results.provenance.mark(row.arm)


def _best_recall(recall: dict[str, float], arm: str) -> str:
    found = [recall[name] for name in (arm, arm + REGRESSION) if name in recall]
    return f"{max(found):.3f}" if found else MISSING


def _said(alone: Sequence[Contrast]) -> str:
    """Of the four alternatives, each alone."""
    kinds = {
        "more accurate": [c for c in alone if c.relative_low > 0],
        "not to be told apart from it": [c for c in alone if c.relative_low <= 0 <= c.relative_high],
        "less accurate": [c for c in alone if c.relative_high < 0],
    }
    said = [f"{kind}: {', '.join(in_words(c.family) for c in found)}" for kind, found in kinds.items() if found]
    return f"The alternatives without EASE beside them: {'; '.join(said)}." if said else "No alternative was measured."
