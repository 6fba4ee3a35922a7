"""The section about the thirteen claims: a table of verdicts, then what each measurement is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from offline.claims import Claim
from offline.claims.claim import CLAIMS
from offline.compare.arms import BY_NAME
from offline.compare.results import Results
from offline.report.blocks import Block, Bullets, Drawing, Drawings, Kind, Section, Table, Text, Whisker, Whiskers
from offline.report.svg import Axis, lines
from offline.report.wording import MISSING

COLUMNS = ("", "claim", "primary contrast", "95 % interval", "verdict")
WORDS = frozenset({0, 1, 2, 4})
PROBED = 1  # the claim that shows what the training probe found, for all that are about training
Details = Mapping[str, Any]


def claims(results: Results) -> Section:
    if not results.claims:
        rows = tuple((str(number), name, MISSING, MISSING, "not measured") for number, name in CLAIMS.items())
        return Section("claims", "The thirteen claims", [Table(COLUMNS, rows, words=WORDS)])
    blocks: list[Block] = [
        Text(
            "What the owner's brief says of the families, each with one primary contrast; above 0 speaks for the "
            "claim. Supported or contradicted only where the interval excludes 0, beyond chance among all of them and "
            "the contrasts above."
        ),
        Table(
            COLUMNS,
            tuple((str(c.number), c.claim, c.contrast, _interval(c), c.verdict) for c in results.claims),
            marked=frozenset(n for n, c in enumerate(results.claims) if c.verdict in ("supported", "contradicted")),
            words=WORDS,
        ),
    ]
    for claim in results.claims:
        if claim.value is not None:
            blocks += [Text(f"Claim {claim.number}. {claim.sentence}"), *_beside(claim)]
            blocks += _training(claim.details.get("arms", [])) if claim.number == PROBED else []  # type: ignore[arg-type]
    blocks.append(Bullets(tuple(f"Claim {c.number}. {c.sentence}" for c in results.claims if c.value is None)))
    return Section("claims", "The thirteen claims", blocks)


def _interval(claim: Claim) -> str:
    if claim.value is None or claim.low is None or claim.high is None:
        return MISSING
    return f"{claim.value:+.4f} ({claim.low:+.4f} to {claim.high:+.4f})"


def _beside(claim: Claim) -> list[Block]:
    """The figures that the contrast is made of, one drawing per unit."""
    listed: Any = claim.details.get("beside", [])
    known = [row for row in listed if None not in (row["value"], row["low"], row["high"])]
    drawn: list[Block] = []
    for unit, rows in groupby(known, key=lambda row: str(row["unit"])):
        whiskers = [_whisker(row, unit=unit) for row in rows]
        drawn.append(
            Whiskers(tuple(whiskers), unit, line=0.0 if any(w.low < 0 for w in whiskers) else None, alone=True)
        )
    return drawn


def _whisker(row: Details, *, unit: str) -> Whisker:
    share = unit.startswith("relative")
    figure = f"{row['value']:+.1%}" if share else f"{row['value']:.4f}"
    name = str(row["what"])
    arm = BY_NAME.get(str(row.get("arm", name.partition(" ")[0].rstrip(","))))
    kind: Kind = "plain" if arm is None or not arm.llm else "control" if arm.role == "control" else "llm"
    return Whisker(name, "", kind, row["value"], row["low"], row["high"], figure)


def _training(arms: Sequence[Details]) -> list[Block]:
    """The training probe: how fast each arm learns what users withheld from everything do next."""
    if not arms:
        return []
    curves = [(arm, _best_curve(arm)) for arm in arms]
    series = [
        (str(arm["arm"]), f"c{n}", list(zip(curve["targets"], curve["mrr"], strict=True)))
        for n, (arm, curve) in enumerate(curves)
    ]
    places = [place for _, _, points in series for place in points]
    x = Axis.around("training targets seen (log scale)", [px for px, _ in places], log=True)
    y = Axis.around("MRR of withheld users", [py for _, py in places])
    ends = "; ".join(f"{name}: MRR {points[-1][1]:.4f} after {points[-1][0]:,} targets" for name, _, points in series)
    table = Table(
        ("arm", "AULC", "95 % interval", "CPU s to 95 % of SASRec", "runs that get there", "near the best", "spikes"),
        tuple(
            (
                str(arm["arm"]),
                f"{arm['aulc']:.3f}",
                f"{arm['low']:.3f} to {arm['high']:.3f}",
                _seconds(arm["cpu_seconds_to_95_percent_of_sasrec"]),
                f"{arm['runs_that_reach_95_percent_of_sasrec']} of {arm['runs']}",
                f"{arm['share_within_5_percent_of_best']:.0%}",
                f"{arm['loss_spikes_per_run']:.1f}",
            )
            for arm in arms
        ),
    )
    legend = tuple((name, css) for name, css, _ in series)
    return [Drawings((Drawing(lines(series, x, y), ends),), legend), table]


def _best_curve(arm: Details) -> Details:
    curve: Details = next(c for c in arm["curves"] if c["learning_rate"] == arm["best_learning_rate"])
    return curve


def _seconds(value: float | None) -> str:
    return MISSING if value is None else f"{value:.0f}"
