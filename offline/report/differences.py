"""The section about pairs of rows: which differences are real."""

from __future__ import annotations

from offline.compare.contrasts import Judged
from offline.compare.results import Results
from offline.evaluation.bootstrap import Contrast
from offline.report.blocks import Block, Section, Table, Text, Whisker, Whiskers
from offline.report.wording import MISSING, chance, kind_of, percent, percent_span, plural


def contrasts(results: Results) -> Section:
    primary = [judged for judged in results.contrasts if judged.primary]
    others = [judged for judged in results.contrasts if not judged.primary]
    claims = sum(claim.p is not None for claim in results.claims)
    kinds = {row.arm: kind_of(row) for row in results.warm}
    blocks: list[Block] = [
        Text(
            "Paired: the same users and events on both sides, relative to the right-hand row. A difference is "
            "claimed when "
            f"its p, adjusted by Holm's method over the {plural(len(primary), 'contrast')} of this table "
            f"and the {plural(claims, 'claim')} measured below, is at "
            f"most .05, "
            "and each side has five runs (three where one takes over 20 minutes). Of the 10,000 draws the least p that "
            f"can come out is {(2 * (len(primary) + claims)) / 10_001:.3f}, adjusted."
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
        blocks += [Text("All other pairs, unadjusted: to look at, not to claim."), _other_pairs(others)]
    return Section("contrasts", "Which differences are real?", blocks)


def _other_pairs(others: list[Judged]) -> Table:
    """A line per row, a column per base."""
    bases = list(dict.fromkeys(j.contrast.base for j in others))
    found = {(j.contrast.family, j.contrast.base): j.contrast for j in others}
    names = list(dict.fromkeys(j.contrast.family for j in others))
    cells = tuple(
        (name, *(_figure(found[name, base]) if (name, base) in found else MISSING for base in bases)) for name in names
    )
    return Table(("row", *(f"against {base}" for base in bases)), cells)


def _figure(c: Contrast) -> str:
    return f"{percent(c.relative)} ({_interval(c)})"


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
