"""Versions side by side, in words: which is better, or that they cannot be told apart."""

from __future__ import annotations

import math

from model_store.store import ModelStore
from offline.evaluation.bootstrap import Contrast
from offline.evaluation.shuffled import OrderDrop, Shuffle, order_drop
from offline.evaluation.version_comparison import Table, is_better
from offline.evaluation.version_scores import Subset, queries_of, resolve, split_of
from offline.training.processes import measuring_device


def as_text(table: Table) -> str:
    """The table in Markdown."""
    seen = "seen items removed" if table.seen_removed else "seen items kept"
    lines = [
        f"{table.dataset}, {table.protocol}, {table.subset}, {seen}; full ranking",
        "",
        "| row | seeds | NDCG@10 | 95 % interval over users | HR@10 |",
        "|---|---|---|---|---|",
        *(
            f"| {r.name} | {r.seeds} | {r.ndcg10:.4f} | {r.low:.4f} to {r.high:.4f} | {r.hr10:.4f} |"
            for r in table.rows
        ),
    ]
    for group in ([r.by_protocol for r in table.rows], [r.lists for r in table.rows]):
        names = list(group[0])
        if names:
            lines += ["", f"| row | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
            lines += [
                f"| {r.name} | {' | '.join(f'{figures[name]:.3f}' for name in names)} |"
                for r, figures in zip(table.rows, group, strict=True)
            ]
    if table.contrasts:
        lines += [
            "",
            "| contrast | relative NDCG@10 | 95 % interval | p (Holm) | smallest detectable |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {c.family} against {c.base} | {c.relative:+.1%} | {c.relative_low:+.1%} to {c.relative_high:+.1%} "
            f"| {c.p_holm:.3f} | {c.detectable_relative:.1%} |"
            for c in table.contrasts
        ]
    return "\n".join(lines)


def verdict(table: Table) -> str:
    """For two versions: one sentence that claims no more than the interval does."""
    (contrast,) = table.contrasts
    by, interval, detectable = _in_words(contrast)
    if is_better(contrast):
        chosen = " Single runs, judged where both were chosen." if table.subset == "validation" else ""
        return f"{contrast.family} is better than {contrast.base} on these users: NDCG@10 {by} ({interval}).{chosen}"
    if contrast.difference_high < 0:
        return f"{contrast.family} is worse than {contrast.base} on these users: NDCG@10 {by} ({interval})."
    return (
        f"The two cannot be told apart on these users: NDCG@10 differs by {by}, and the interval "
        f"({interval}) holds 0. With this many users a difference of {detectable} would show."
    )


def order_drops(references: list[str], *, subset: Subset, keep_seen: bool = False, store: ModelStore) -> str:
    """How much each version loses when histories are shuffled, in Markdown."""
    lines = ["| version | shuffled | relative drop of NDCG@10 | 95 % interval |", "|---|---|---|---|"]
    for reference in references:
        for manifest in resolve(reference, store).versions:
            data, bundle = split_of(manifest), store.open(manifest.version, measuring_device())
            queries, seen_removed = queries_of(data, subset), data.dataset.exclude_seen and not keep_seen
            shuffles: tuple[Shuffle, ...] = ("all", "all but last")
            for what in shuffles:
                drop: OrderDrop = order_drop(bundle, queries, what=what, seen_removed=seen_removed)
                interval = f"{drop.low:.1%} to {drop.high:.1%}"
                lines.append(f"| {manifest.version} | {what} | {drop.drop:.1%} | {interval} |")
    return "\n".join(lines)


def _in_words(c: Contrast) -> tuple[str, str, str]:
    """Difference, its interval, the smallest detectable one; absolute where the base hit nothing in some draw."""
    if all(map(math.isfinite, (c.relative, c.relative_low, c.relative_high))):
        interval = f"{c.relative_low:+.1%} to {c.relative_high:+.1%}"
        return f"{c.relative:+.1%}", interval, f"{c.detectable_relative:.0%}"
    interval = f"{c.difference_low:+.4f} to {c.difference_high:+.4f}"
    return f"{c.difference:+.4f}", interval, f"{c.detectable:.4f}"
