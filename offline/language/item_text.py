"""What a language model reads of an item: a template over the catalogue's columns."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from typing import Any

import polars as pl

COLUMNS = ("title", "text", "categories", "year")


def check_template(template: str) -> str:
    """The template itself; ValueError for a field that no catalogue has, or for one without any field."""
    fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    unknown = sorted(set(fields) - set(COLUMNS))
    if unknown:
        raise ValueError(f"item text knows {', '.join(COLUMNS)}; not {', '.join(unknown)}")
    if not fields:
        raise ValueError("an item text without any field is the same for every item")
    return template


def item_texts(items: pl.DataFrame, template: str) -> list[str]:
    """One text per item row. A missing part is dropped together with its separators: "{title} ({year}) | {categories}"
    of an item without year and categories is its title.
    """
    return [_fill(template, row) for row in items.select(COLUMNS).iter_rows(named=True)]


def _fill(template: str, row: Mapping[str, Any]) -> str:
    pieces: list[str] = []
    for literal, name, _, _ in string.Formatter().parse(template):
        pieces.append(literal)
        if name is not None:
            pieces.append(_value(row[name]))
    text = re.sub(r"\(\s*\)|\[\s*\]", "", "".join(pieces))
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(\s[|,;:-])(?=\s[|,;:-]|\s*$)", "", text)
    return text.strip(" |,;:-")


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(value)
    return str(value)
