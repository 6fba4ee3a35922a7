"""What a page is made of, before it is HTML or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["llm", "plain", "control"]


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """rows: one text per column. marked: places of rows to set off. numeric: columns that are figures."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()
    words: frozenset[int] = frozenset({0})  # columns that are text and may wrap


@dataclass(frozen=True, slots=True)
class Whisker:
    """A dot with its interval. note: smaller, below the name. figure: in words, beside it."""

    name: str
    note: str
    kind: Kind
    value: float
    low: float
    high: float
    figure: str


@dataclass(frozen=True, slots=True)
class Whiskers:
    """One row per item over one axis. line: a value to compare with. percent: whether the axis is in percent. alone: no
    table beside it says the same in figures.
    """

    rows: tuple[Whisker, ...]
    axis: str
    line: float | None = None
    percent: bool = False
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Drawing:
    """Ready SVG; text is what a reader without the picture gets."""

    svg: str
    text: str


@dataclass(frozen=True, slots=True)
class Drawings:
    """Side by side where there is room."""

    drawings: tuple[Drawing, ...]
    legend: tuple[tuple[str, str], ...] = ()  # (name, CSS class)


@dataclass(frozen=True, slots=True)
class Commands:
    """To type into a shell, a line each."""

    lines: tuple[str, ...]


Plain = Text | Bullets | Table | Whiskers | Drawings | Commands


@dataclass(frozen=True, slots=True)
class Folded:
    """What most readers pass over: opened by who wants it."""

    summary: str
    blocks: tuple[Plain, ...]


Block = Plain | Folded


@dataclass(frozen=True, slots=True)
class Section:
    id: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
