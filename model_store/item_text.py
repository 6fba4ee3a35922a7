"""What a model reads of an item: a template over what is known of it."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from typing import Any

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


def item_text(template: str, item: Mapping[str, Any]) -> str:
    """The template filled. A missing part is dropped together with its separators: "{title} ({year}) | {categories}"
    of an item without year and categories is its title. A column that `item` lacks is missing.
    """
    pieces: list[str] = []
    for literal, name, _, _ in string.Formatter().parse(template):
        pieces.append(literal)
        if name is not None:
            pieces.append(_value(item.get(name)))
    text = re.sub(r"\(\s*\)|\[\s*\]", "", "".join(pieces))
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(\s[|,;:-])(?=\s[|,;:-]|\s*$)", "", text)
    return text.strip(" |,;:-")


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(value)
    return str(value)
