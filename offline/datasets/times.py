"""Time columns -> milliseconds since 1970, null where the data has none."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from offline.datasets.refusal import DataRefused

PER_MS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
YEAR_2200_MS = 7_258_118_400_000


def to_ms(series: pl.Series, unit: str, *, file: Path) -> pl.Series:
    """int64, nullable. Refused: text that is no time, times before 1970 or after 2200 (mostly a wrong unit)."""
    if series.dtype.is_temporal():
        times = series.cast(pl.Datetime("ms"))
    elif unit == "iso":
        times = series.cast(pl.String).str.to_datetime(strict=False, time_unit="ms", time_zone="UTC")
    else:
        times = series.cast(pl.Float64, strict=False) * PER_MS[unit]
        times = times.set(~times.is_finite().fill_null(value=True), None)
    _refuse_first(
        series, times.is_null() & _has_text(series), "is no time", f"write times in unit '{unit}' or leave empty", file
    )
    milliseconds = times.cast(pl.Float64).round().clip(-1e18, 1e18).cast(pl.Int64)
    outside = ((milliseconds < 0) | (milliseconds > YEAR_2200_MS)).fill_null(value=False)
    _refuse_first(series, outside, "lies before 1970 or after 2200", "set `time_unit` to s, ms, us, ns or iso", file)
    return milliseconds


def _has_text(series: pl.Series) -> pl.Series:
    return series.cast(pl.String).str.strip_chars().fill_null("") != ""


def _refuse_first(series: pl.Series, bad: pl.Series, problem: str, cure: str, file: Path) -> None:
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise DataRefused(file, f"'{series.name}' = {series[row]!r} {problem}", cure=cure, row=row + 1)
