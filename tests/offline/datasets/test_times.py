from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import polars as pl
import pytest

from offline.datasets.refusal import DataRefused
from offline.datasets.times import to_ms

FILE = Path("events.csv")


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (["881250949"], "s"),
        ([881250949000], "ms"),
        (["881250949000000"], "us"),
        (["881250949000000000"], "ns"),
        (["1997-12-04T15:55:49"], "iso"),
        ([datetime(1997, 12, 4, 15, 55, 49)], "s"),  # noqa: DTZ001 - parquet times often carry no zone
    ],
)
def test_every_unit_gives_milliseconds(values: list[object], unit: str) -> None:
    assert to_ms(pl.Series("timestamp", values), unit, file=FILE).to_list() == [881_250_949_000]


def test_dates_are_their_midnight_and_empty_stays_empty() -> None:
    assert to_ms(pl.Series([date(1970, 1, 2), None]), "s", file=FILE).to_list() == [86_400_000, None]
    assert to_ms(pl.Series(["1", "", None]), "s", file=FILE).to_list() == [1000, None, None]


def test_text_that_is_no_iso_time_is_refused() -> None:
    with pytest.raises(DataRefused, match=r"data row 2.*'yesterday'"):
        to_ms(pl.Series("timestamp", ["2024-01-01T00:00:00", "yesterday"]), "iso", file=FILE)
