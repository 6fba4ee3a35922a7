"""Dots with intervals as rows of HTML: names stay text, and the drawing takes whatever width is left."""

from __future__ import annotations

from html import escape

from offline.report.blocks import Whisker, Whiskers
from offline.report.svg import Axis

HALF = 11  # of the height of a row's drawing, in pixels


def axis_of(block: Whiskers) -> Axis:
    values = [value for row in block.rows for value in (row.low, row.high, row.value)]
    if block.line is not None:
        values.append(block.line)
    return Axis.around(block.axis, values)


def row_svg(row: Whisker, axis: Axis, *, line: float | None) -> str:
    """Places are in percent of the width: nothing is stretched, whatever the screen."""
    low, value, high = (100 * axis.share(v) for v in (row.low, row.value, row.high))
    parts = [_upright(100 * axis.share(tick), "grid") for tick in axis.ticks()]
    if line is not None:
        parts.append(_upright(100 * axis.share(line), "base"))
    parts.append(f'<line x1="{low:.2f}%" x2="{high:.2f}%" y1="{HALF}" y2="{HALF}" class="whisker {row.kind}"/>')
    parts.append(f'<circle cx="{value:.2f}%" cy="{HALF}" r="4.5" class="dot {row.kind}"/>')
    label = escape(f"{row.name}: {row.figure}")
    return f'<svg height="{2 * HALF}" width="100%" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def axis_svg(axis: Axis, *, percent: bool) -> str:
    marks = []
    for tick in axis.ticks():
        at = 100 * axis.share(tick)
        anchor = "start" if at < 6 else "end" if at > 94 else "middle"
        text = f"{tick:+.0%}".replace("+0%", "0") if percent else f"{tick:.3g}"
        marks.append(f'<text x="{at:.2f}%" y="12" text-anchor="{anchor}" class="tick">{text}</text>')
    return f'<svg height="16" width="100%" aria-hidden="true">{"".join(marks)}</svg>'


def _upright(at: float, css: str) -> str:
    return f'<line x1="{at:.2f}%" x2="{at:.2f}%" y1="0" y2="{2 * HALF}" class="{css}"/>'
