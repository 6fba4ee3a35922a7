"""What a language model reads of each item of a data set."""

from __future__ import annotations

import polars as pl

from model_store.item_text import COLUMNS, check_template, item_text

__all__ = ["COLUMNS", "check_template", "item_texts"]


def item_texts(items: pl.DataFrame, template: str) -> list[str]:
    """One text per item row, as `item_text` fills the template."""
    return [item_text(template, row) for row in items.select(COLUMNS).iter_rows(named=True)]
