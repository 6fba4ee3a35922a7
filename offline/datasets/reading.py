"""Files -> frames of text columns, or a refusal that names the file."""

from __future__ import annotations

import os
import re
from pathlib import Path

import polars as pl

from offline.datasets.refusal import DataRefused

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".inter": "\t", ".item": "\t"}


def expand(path: str) -> Path:
    """The path with ${VARIABLES} and ~ replaced; refused when a variable is not set."""
    for name in re.findall(r"\$\{(\w+)\}", path):
        if not os.environ.get(name):
            raise DataRefused(path, f"the environment variable {name} is not set", cure=f"set {name} to a folder")
    return Path(os.path.expandvars(path)).expanduser()


def read_table(file: Path) -> pl.DataFrame:
    """Every column as text for csv and tsv (a cell without characters is null), own types for parquet."""
    suffix = file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix
    if not file.is_file():
        raise DataRefused(file, "there is no such file", cure="correct the path in the [data] section")
    if suffix != ".parquet" and suffix not in SEPARATORS:
        raise DataRefused(file, f"files that end in '{suffix}' are not read", cure="use .csv, .tsv, .gz or .parquet")
    try:
        frame = pl.read_parquet(file) if suffix == ".parquet" else _read_text(file, SEPARATORS[suffix])
    except pl.exceptions.NoDataError:
        raise DataRefused(file, "the file is empty", cure="write a header and at least one row") from None
    # polars reports damage as its own errors, a broken gzip as OSError or as bytes that are no UTF-8.
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataRefused(file, f"cannot be read ({reason})", cure="write it again as UTF-8 text or parquet") from error
    if frame.is_empty():
        raise DataRefused(file, "the file has no rows", cure="write at least one row below the header")
    return frame


def _read_text(file: Path, separator: str) -> pl.DataFrame:
    # Tab-separated files do not quote: a lone " (for inches, in titles) would swallow the rows that follow.
    quote = '"' if separator == "," else None
    return pl.read_csv(file, separator=separator, quote_char=quote, infer_schema=False)


def column(frame: pl.DataFrame, name: str, *, file: Path, key: str) -> pl.Series:
    """The column, or a refusal that lists the columns that are there and the key that names it."""
    if name not in frame.columns:
        raise DataRefused(
            file,
            f"there is no column '{name}' (there are: {', '.join(frame.columns)})",
            cure=f"name the right one in `{key}`",
        )
    return frame[name]


def ids(series: pl.Series, *, file: Path) -> pl.Series:
    """Ids as text, refused where one is missing or has no stable spelling."""
    if not (series.dtype.is_integer() or series.dtype in (pl.String, pl.Categorical)):
        raise DataRefused(
            file, f"ids in '{series.name}' are of type {series.dtype}", cure="store ids as text or integers"
        )
    text = series.cast(pl.String)
    missing = text.is_null() | (text.str.strip_chars() == "")
    if missing.any():
        row = int(missing.arg_max() or 0)
        raise DataRefused(file, f"'{series.name}' is empty", cure="fill the id in or delete the row", row=row + 1)
    return text
