"""A log of events as a file (csv, tsv, parquet): read whole, and refused whole where one row cannot be used."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl

SEPARATORS = {".csv": ",", ".tsv": "\t"}
TIME_UNITS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
"""Milliseconds per unit."""
_AHEAD_MS = 300_000
_NO_ID = r"^$|[\x00-\x1f\x7f-\x9f]"


class LogRefused(ValueError):
    """Names the file, the data row (1 = the first below the header) where one is to blame, and the cure."""


@dataclass(frozen=True, slots=True)
class LogColumns:
    """Column names. time None: `timestamp` where there is such a column, else file order.

    time_unit: `auto`, `iso` (RFC 3339), or one of TIME_UNITS.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = None
    time_unit: str = "auto"


def read_log(file: Path, columns: LogColumns) -> pl.DataFrame:
    """user_id, item_id: text; timestamp_ms: int64, null where the log has no time. In file order. Raises LogRefused."""
    frame = _read(file)
    wanted = [columns.user, columns.item] + ([columns.time] if columns.time is not None else [])
    for name in wanted:
        if name not in frame.columns:
            raise LogRefused(
                f"{file}: there is no column '{name}' (there are: {', '.join(frame.columns)}). "
                "Cure: name the right ones with --user-column, --item-column, --time-column."
            )
    time_column = columns.time or ("timestamp" if "timestamp" in frame.columns else None)
    times = pl.Series([None], dtype=pl.Int64).new_from_index(0, len(frame))
    if time_column is not None:
        times = _milliseconds(frame[time_column], columns.time_unit, file=file)
    return pl.DataFrame(
        {
            "user_id": _ids(frame[columns.user], file=file),
            "item_id": _ids(frame[columns.item], file=file),
            "timestamp_ms": times,
        }
    )


def _read(file: Path) -> pl.DataFrame:
    suffix = file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix
    try:
        if suffix == ".parquet":
            frame = pl.read_parquet(file)
        elif suffix in SEPARATORS:
            # Tab-separated files do not quote: a lone " would swallow the rows that follow.
            quote = '"' if suffix == ".csv" else None
            frame = pl.read_csv(file, separator=SEPARATORS[suffix], quote_char=quote, infer_schema=False)
        else:
            raise LogRefused(f"{file}: files like this are not read. Cure: use .csv, .tsv (also .gz) or .parquet.")
    except LogRefused:
        raise
    # polars reports damage as its own errors, a missing file or a broken gzip as OSError, other bytes as ValueError.
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise LogRefused(
            f"{file}: cannot be read ({reason}). Cure: write it again as UTF-8 text or parquet."
        ) from error
    if frame.is_empty():
        raise LogRefused(f"{file}: there are no rows. Cure: write a header and at least one row.")
    return frame


def _ids(series: pl.Series, *, file: Path) -> pl.Series:
    if not (series.dtype.is_integer() or series.dtype in (pl.String, pl.Categorical)):
        raise LogRefused(f"{file}: ids in '{series.name}' are {series.dtype}. Cure: store ids as text or integers.")
    text = series.cast(pl.String)
    bad = text.is_null() | text.str.contains(_NO_ID) | (text.str.len_bytes() > 256)
    cure = "ids are 1 to 256 bytes without control characters; correct or delete the row"
    _refuse_first(series, bad, "is no id", cure, file)
    return text


def _milliseconds(series: pl.Series, unit: str, *, file: Path) -> pl.Series:
    """int64 ms, null where the cell is empty."""
    if series.dtype.is_temporal():
        times = series.cast(pl.Datetime("ms")).cast(pl.Int64)
    else:
        numbers = series.cast(pl.Float64, strict=False)
        given = series.cast(pl.String).str.strip_chars().fill_null("") != ""
        if unit == "auto":
            unit = "iso" if given.any() and not numbers.is_not_null().any() else _unit_of(numbers)
        if unit == "iso":
            text = series.cast(pl.String)
            times = text.str.to_datetime(strict=False, time_unit="ms", time_zone="UTC").cast(pl.Int64)
        else:
            scaled = numbers * TIME_UNITS[unit]
            times = scaled.set(~scaled.is_finite().fill_null(value=True), None).clip(-1e18, 1e18).round().cast(pl.Int64)
        _refuse_first(series, given & times.is_null(), "is no time", f"write times in unit '{unit}', or none", file)
    latest = time.time_ns() // 1_000_000 + _AHEAD_MS
    outside = ((times < 0) | (times > latest)).fill_null(value=False)
    _refuse_first(series, outside, "lies before 1970 or in the future", "correct it, or set --time-unit", file)
    return times


def _unit_of(numbers: pl.Series) -> str:
    """By magnitude: 1e11 is the year 1973 in ms and 5138 in seconds, and so on by thousands."""
    median = numbers.drop_nans().abs().median()
    size = float(median) if isinstance(median, int | float) else 0.0
    return next((unit for unit, bound in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if size < bound), "ns")


def _refuse_first(series: pl.Series, bad: pl.Series, problem: str, cure: str, file: Path) -> None:
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise LogRefused(f"{file}, data row {row + 1}: '{series.name}' = {series[row]!r} {problem}. Cure: {cure}.")
