"""Small drawings as SVG text: points over two axes, and lines over two axes. Colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 40
LETTER = 5.6  # width of a label's letter, a little generous


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
    return next((m * power for m in (1, 2, 5) if m * power >= rough * 0.999), 10 * power)


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
    """Labels stand near their points, the first points' first; where there is no room a label is left out, and the
    name is what a pointer over the point shows.
    """
    size = Size(HEIGHT + 90)
    parts = [_frame(x, y, size)]
    places = [size.place(point.x, point.y, x, y) for point in points]
    taken = [Box(at_x - 5, at_y - 5, at_x + 5, at_y + 5) for at_x, at_y in places]
    for point, (at_x, at_y) in zip(points, places, strict=True):
        name = escape(point.label)
        parts.append(
            f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="4" class="dot {point.css}"><title>{name}</title></circle>'
        )
        box = next((box for box in _boxes(point.label, at_x, at_y) if size.holds(box) and not _meets(box, taken)), None)
        if box is not None:
            taken.append(box)
            parts.append(f'<text x="{box.left:.1f}" y="{box.bottom - 2:.1f}" class="label">{name}</text>')
    return _svg(parts, f"{y.name} against {x.name}", size)


@dataclass(frozen=True, slots=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float


def _boxes(label: str, at_x: float, at_y: float) -> Iterator[Box]:
    """Places for a label around a point, the nearest first."""
    width = LETTER * len(label)
    for down in (0, -9, 9, -16, 16, -24, 24):
        for left in (at_x + 7, at_x - 7 - width) if abs(down) < 12 else (at_x - width / 2, at_x, at_x - width):
            yield Box(left, at_y + down - 5, left + width, at_y + down + 6)


def _meets(box: Box, others: Sequence[Box]) -> bool:
    return any(
        box.left < other.right and other.left < box.right and box.top < other.bottom and other.top < box.bottom
        for other in others
    )


def lines(series: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], x: Axis, y: Axis) -> str:
    """series: (name, CSS class, points)."""
    size = Size(HEIGHT)
    parts = [_frame(x, y, size)]
    for name, css, points in series:
        places = [size.place(px, py, x, y) for px, py in points]
        path = " ".join(f"{at_x:.1f},{at_y:.1f}" for at_x, at_y in places)
        parts.append(f'<polyline points="{path}" class="curve {css}"><title>{escape(name)}</title></polyline>')
        parts += [f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="1.8" class="spot {css}"/>' for at_x, at_y in places]
    return _svg(parts, f"{y.name} over {x.name}", size)


@dataclass(frozen=True, slots=True)
class Size:
    """height: of the whole drawing."""

    height: float

    @property
    def floor(self) -> float:
        return self.height - BOTTOM

    def place(self, px: float, py: float, x: Axis, y: Axis) -> tuple[float, float]:
        across, up = WIDTH - LEFT - RIGHT, self.floor - TOP
        return LEFT + across * x.share(px), self.floor - up * y.share(py)

    def holds(self, box: Box) -> bool:
        return box.left >= LEFT and box.right <= WIDTH and box.top >= 0 and box.bottom <= self.floor


def _frame(x: Axis, y: Axis, size: Size) -> str:
    parts = []
    for tick in y.ticks():
        _, at = size.place(x.low, tick, x, y)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{at + 3.5:.1f}" text-anchor="end" class="tick">{short(tick)}</text>')
    for tick in x.ticks():
        at, _ = size.place(tick, y.low, x, y)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{size.floor}" y2="{size.floor + 4}" class="axis"/>')
        parts.append(f'<text x="{at:.1f}" y="{size.floor + 16}" text-anchor="middle" class="tick">{short(tick)}</text>')
    parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{size.floor}" y2="{size.floor}" class="axis"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{size.height - 6}" text-anchor="middle" class="name">{escape(x.name)}</text>')
    return "".join(parts)


def _svg(parts: Sequence[str], title: str, size: Size) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {size.height:g}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
