"""How figures and arms are written on the page."""

from __future__ import annotations

import math

from offline.compare.rows import Row
from offline.report.blocks import Kind

MISSING = "–"


def kind_of(row: Row) -> Kind:
    if row.role == "control":
        return "control"
    return "llm" if row.llm else "plain"


def score(value: float) -> str:
    return f"{value:.4f}"


def span(low: float, high: float) -> str:
    return f"{low:.4f} to {high:.4f}"


def percent(value: float) -> str:
    return f"{100 * value:+.1f} %" if math.isfinite(value) else MISSING


def percent_span(low: float, high: float) -> str:
    return f"{100 * low:+.1f} to {100 * high:+.1f} %" if math.isfinite(low) and math.isfinite(high) else MISSING


def milliseconds(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def megabytes(value: float | None) -> str:
    return MISSING if value is None else f"{value / 1e6:.1f}"


def minutes(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f}"


def chance(p: float) -> str:
    return "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0")


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
