"""Small drawings as SVG text: points over two axes, and lines over two axes. Colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 40


@dataclass(frozen=True, slots=True)
class Axis:
    """low, high: what is shown. name: of the quantity, with its unit."""

    name: str
    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, name: str, values: Sequence[float], *, log: bool = False) -> Axis:
        """A little wider than the values."""
        finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
        if log:
            return cls(name, min(finite) / 1.5, max(finite) * 1.5, log=True)
        room = 0.06 * (max(finite) - min(finite)) or 0.05 * abs(finite[0]) or 1.0
        return cls(name, min(finite) - room, max(finite) + room)

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        low, high, at = (math.log(max(v, 1e-12)) if self.log else v for v in (self.low, self.high, value))
        return min(1.0, max(0.0, (at - low) / ((high - low) or 1.0)))

    def ticks(self, most: int = 5) -> list[float]:
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [m * 10.0**p for p in powers for m in (1, 2, 5) if self.low <= m * 10.0**p <= self.high]
            return found if len(found) <= most + 1 else [v for v in found if str(f"{v:e}")[0] == "1"] or found[:most]
        step = _round_step((self.high - self.low) / most)
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 12) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next((m * power for m in (1, 2, 2.5, 5) if m * power >= rough), 10 * power)


def short(value: float) -> str:
    """As few characters as tell it."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float
    label: str
    css: str


def scatter(points: Sequence[Point], x: Axis, y: Axis) -> str:
    """Labels stand beside their points, moved down where two would lie upon each other."""
    parts = [_frame(x, y)]
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: -p.y):
        at_x, at_y = _place(point.x, point.y, x, y)
        parts.append(f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="4.5" class="dot {point.css}"/>')
        text_y, right = at_y + 3.5, at_x > WIDTH * 0.62
        while any(abs(text_y - other_y) < 10.5 and abs(at_x - other_x) < 95 for other_x, other_y in taken):
            text_y += 2
        taken.append((at_x, text_y))
        text_x, anchor = (at_x - 8, "end") if right else (at_x + 8, "start")
        parts.append(
            f'<text x="{text_x:.1f}" y="{text_y:.1f}" text-anchor="{anchor}" class="label">{escape(point.label)}</text>'
        )
    return _svg(parts, f"{y.name} against {x.name}")


def lines(series: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], x: Axis, y: Axis) -> str:
    """series: (name, CSS class, points)."""
    parts = [_frame(x, y)]
    for name, css, points in series:
        places = [_place(px, py, x, y) for px, py in points]
        path = " ".join(f"{at_x:.1f},{at_y:.1f}" for at_x, at_y in places)
        parts.append(f'<polyline points="{path}" class="curve {css}"><title>{escape(name)}</title></polyline>')
        parts += [f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="1.8" class="spot {css}"/>' for at_x, at_y in places]
    return _svg(parts, f"{y.name} over {x.name}")


def _place(px: float, py: float, x: Axis, y: Axis) -> tuple[float, float]:
    across, up = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    return LEFT + across * x.share(px), HEIGHT - BOTTOM - up * y.share(py)


def _frame(x: Axis, y: Axis) -> str:
    floor, parts = HEIGHT - BOTTOM, []
    for tick in y.ticks():
        _, at = _place(x.low, tick, x, y)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{at + 3.5:.1f}" text-anchor="end" class="tick">{short(tick)}</text>')
    for tick in x.ticks():
        at, _ = _place(tick, y.low, x, y)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{floor}" y2="{floor + 4}" class="axis"/>')
        parts.append(f'<text x="{at:.1f}" y="{floor + 16}" text-anchor="middle" class="tick">{short(tick)}</text>')
    parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}" class="axis"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle" class="name">{escape(x.name)}</text>')
    return "".join(parts)


def _svg(parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
