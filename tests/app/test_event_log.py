from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from app.event_log import LogColumns, LogRefused, read_log

ROWS = [("u1", "007", 1_300_000_000_000), ("u2", 'a "b', 1_300_000_001_000)]
FRAME = pl.DataFrame(ROWS, schema=["user_id", "item_id", "timestamp_ms"], orient="row")


def written(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    if name.endswith(".gz"):
        file.write_bytes(gzip.compress(text.encode()))
    else:
        file.write_text(text)
    return file


CSV = 'user_id,item_id,timestamp\nu1,007,1300000000\nu2,"a ""b",1300000001\n'
TSV = 'item_id\tuser_id\tother\ttimestamp\n007\tu1\tx\t1300000000\na "b\tu2\ty\t1300000001\n'


@pytest.mark.parametrize(("name", "text"), [("l.csv", CSV), ("l.tsv", TSV), ("l.csv.gz", CSV), ("l.tsv.gz", TSV)])
def test_text_files(tmp_path: Path, name: str, text: str) -> None:
    assert read_log(written(tmp_path, name, text), LogColumns()).equals(FRAME)


def test_parquet_with_own_types_and_names(tmp_path: Path) -> None:
    times = [datetime(2011, 3, 13, 7, 6, 40, tzinfo=UTC), None]
    pl.DataFrame({"who": [1, 2], "what": ["007", "8"], "when": times}).write_parquet(tmp_path / "l.parquet")
    frame = read_log(tmp_path / "l.parquet", LogColumns("who", "what", "when"))
    assert frame.rows() == [("1", "007", 1_300_000_000_000), ("2", "8", None)]


@pytest.mark.parametrize(
    ("unit", "cell"),
    [
        ("auto", "1300000000"),
        ("auto", "1300000000.0"),
        ("auto", "1300000000000"),
        ("auto", "1300000000000000"),
        ("auto", "1300000000000000000"),
        ("auto", "2011-03-13T07:06:40Z"),
        ("auto", "2011-03-13T09:06:40+02:00"),
        ("s", "1300000000"),
        ("ms", "1300000000000"),
        ("us", "1300000000000000"),
        ("ns", "1300000000000000000"),
        ("iso", "2011-03-13T07:06:40Z"),
    ],
)
def test_units_of_time(tmp_path: Path, unit: str, cell: str) -> None:
    file = written(tmp_path, "l.csv", f"user_id,item_id,timestamp\nu,a,{cell}\nu,b,\n")
    assert read_log(file, LogColumns(time_unit=unit))["timestamp_ms"].to_list() == [1_300_000_000_000, None]


def test_no_time_column(tmp_path: Path) -> None:
    file = written(tmp_path, "l.csv", "user_id,item_id\nu,a\nu,b\n")
    frame = read_log(file, LogColumns())
    assert frame["timestamp_ms"].to_list() == [None, None]
    assert frame.schema["timestamp_ms"] == pl.Int64


HEAD = "user_id,item_id,timestamp\n"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("l.csv", "", r"cannot be read|no rows"),
        ("l.csv", HEAD, r"no rows"),
        ("l.csv", "user,item_id\nu,a\n", r"no column 'user_id' \(there are: user, item_id\).*--user-column"),
        ("l.csv", HEAD + "u,a,1\nu,,1\n", r"data row 2: 'item_id' = None is no id"),
        ("l.csv", HEAD + 'u,"a\nb",1\n', r"data row 1: 'item_id'.*control"),
        ("l.csv", HEAD + f"{'x' * 257},a,1\n", r"data row 1: 'user_id'"),
        ("l.csv", HEAD + f"u,a,{10**9}\nu,a,soon\n", r"data row 2: 'timestamp' = 'soon' is no time"),
        ("l.csv", HEAD + f"u,a,{10**9}\nu,a,nan\n", r"data row 2: 'timestamp' = 'nan' is no time"),
        ("l.csv", HEAD + "u,a,-1\n", r"before 1970"),
        ("l.csv", HEAD + "u,a,2999-01-01T00:00:00Z\n", r"future"),
        ("l.csv", HEAD + "u,a,1,2,3\n", r"cannot be read"),
        ("l.txt", HEAD + "u,a,1\n", r"\.csv, \.tsv"),
        ("l.parquet", "no parquet", r"cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused_by_file_and_row(tmp_path: Path, name: str, text: str, reason: str) -> None:
    file = written(tmp_path, name, text)
    with pytest.raises(LogRefused, match=reason) as refused:
        read_log(file, LogColumns())
    assert str(file) in str(refused.value)
    assert "Cure:" in str(refused.value)


def test_bytes_that_are_no_text_and_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes(b"user_id,item_id\n\xff\xfe,a\n")
    (tmp_path / "l.csv.gz").write_bytes(gzip.compress(CSV.encode())[:-20])
    for name in ("l.csv", "l.csv.gz", "none.csv", "none.parquet"):
        with pytest.raises(LogRefused, match="cannot be read"):
            read_log(tmp_path / name, LogColumns())


def test_numbers_that_are_no_ids(tmp_path: Path) -> None:
    pl.DataFrame({"user_id": [1.0], "item_id": ["a"]}).write_parquet(tmp_path / "l.parquet")
    with pytest.raises(LogRefused, match="Float64"):
        read_log(tmp_path / "l.parquet", LogColumns())
