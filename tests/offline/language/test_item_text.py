from __future__ import annotations

import polars as pl
import pytest

from offline.language.item_text import check_template, item_texts

TEMPLATE = "{title} ({year}) | {categories}"
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "title": pl.String,
    "text": pl.String,
    "categories": pl.List(pl.String),
    "year": pl.Int64,
}


@pytest.mark.parametrize(
    ("title", "year", "categories", "expected"),
    [
        ("Fargo", 1996, ["Crime", "Drama"], "Fargo (1996) | Crime, Drama"),
        ("Fargo", None, ["Crime"], "Fargo | Crime"),
        ("Fargo", 1996, [], "Fargo (1996)"),
        ("Fargo", None, [], "Fargo"),
        (None, None, [], ""),
    ],
)
def test_missing_parts_take_their_separators_along(
    title: str | None, year: int | None, categories: list[str], expected: str
) -> None:
    items = pl.DataFrame([{"title": title, "text": None, "categories": categories, "year": year}], schema=SCHEMA)
    assert item_texts(items, TEMPLATE) == [expected]


@pytest.mark.parametrize("template", ["{titel}", "no field"])
def test_templates_that_say_nothing_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match="item text"):
        check_template(template)
