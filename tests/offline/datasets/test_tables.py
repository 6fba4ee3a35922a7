from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from offline.datasets import DataRefused, Interactions, load
from offline.datasets.config import EventColumns, ItemColumns, TablesConfig

EVENTS = "user_id\titem_id\ttimestamp\nb\ty\t30\na\tx\t20\na\ty\t10\nb\tz\t30\na\tx\t20\n"


def config(tmp_path: Path, events: str = EVENTS, items: str | None = None, **options: object) -> TablesConfig:
    (tmp_path / "events.tsv").write_text(events)
    if items is not None:
        (tmp_path / "items.tsv").write_text(items)
        options["items"] = str(tmp_path / "items.tsv")
    return TablesConfig.model_validate({"name": "mine", "interactions": str(tmp_path / "events.tsv"), **options})


def told(interactions: Interactions) -> dict[str, list[str]]:
    """User id -> item ids in order."""
    ids = interactions.items["item_id"].to_list()
    sequences = interactions.sequences()
    return {user: [ids[row] for row in rows] for user, rows in zip(interactions.user_ids, sequences, strict=True)}


def test_unsorted_rows_are_sorted_by_user_and_time_and_ties_keep_file_order(tmp_path: Path) -> None:
    interactions = load(config(tmp_path))
    assert told(interactions) == {"b": ["y", "z"], "a": ["y", "x", "x"]}
    assert interactions.times_ms.tolist() == [30_000, 30_000, 10_000, 20_000, 20_000]
    assert (np.diff(interactions.users) >= 0).all()


def test_item_rows_follow_the_item_table_and_then_first_appearance(tmp_path: Path) -> None:
    items = "item_id\ttitle\nunused\tNobody's\nz\t Zed \nx\t\n"
    interactions = load(config(tmp_path, items=items))
    # y is in no table: it comes last, without a title.
    assert interactions.items["item_id"].to_list() == ["unused", "z", "x", "y"]
    assert interactions.items["title"].to_list() == ["Nobody's", "Zed", None, None]
    assert told(interactions)["b"] == ["y", "z"]


def test_items_without_a_table_are_named_in_order_of_the_file(tmp_path: Path) -> None:
    events = "user_id\titem_id\ttimestamp\na\tlate\t9\na\tearly\t1\n"
    assert load(config(tmp_path, events)).items["item_id"].to_list() == ["early", "late"]


def test_an_empty_time_takes_the_users_previous_one(tmp_path: Path) -> None:
    events = "user_id\titem_id\ttimestamp\na\tp\t\na\tq\t5\na\tr\t\na\ts\t7\nb\tt\t\nb\tu\t\n"
    interactions = load(config(tmp_path, events))
    assert interactions.times_ms.tolist() == [5_000, 5_000, 5_000, 7_000, -1, -1]
    assert told(interactions) == {"a": ["p", "q", "r", "s"], "b": ["t", "u"]}


def test_data_without_times_keeps_the_order_of_the_file(tmp_path: Path) -> None:
    interactions = load(config(tmp_path, "user_id\titem_id\na\tx\nb\ty\na\tw\n", columns={"time": ""}))
    assert told(interactions) == {"a": ["x", "w"], "b": ["y"]}
    assert (interactions.times_ms == -1).all()


def test_repeat_first_keeps_a_users_first_event_with_an_item(tmp_path: Path) -> None:
    assert told(load(config(tmp_path, repeat="first")))["a"] == ["y", "x"]


def test_min_rating_drops_events(tmp_path: Path) -> None:
    events = "user_id\titem_id\ttimestamp\trating\na\tx\t1\t2\na\ty\t2\t4.5\na\tz\t3\t\n"
    assert told(load(config(tmp_path, events, min_rating=3)))["a"] == ["y", "z"]


def test_min_rating_without_ratings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="no event has a rating"):
        load(config(tmp_path, min_rating=3))


def test_k_core_repeats_until_nothing_changes_and_leaves_no_empty_rows(tmp_path: Path) -> None:
    # z has one event; without it b has one; without b, y has one left.
    events = "user_id\titem_id\ttimestamp\na\tx\t1\na\tw\t2\nb\ty\t1\nb\tz\t2\nc\tx\t1\nc\tw\t2\nc\ty\t3\n"
    items = "item_id\ttitle\nz\tZ\ny\tY\nx\tX\nw\tW\n"
    interactions = load(config(tmp_path, events, items, k_core=2))
    assert told(interactions) == {"a": ["x", "w"], "c": ["x", "w"]}
    assert interactions.items["item_id"].to_list() == ["x", "w"]


@pytest.mark.parametrize("form", ["csv", "csv.gz", "tsv", "tsv.gz", "parquet"])
def test_every_form_of_table_gives_the_same_data(tmp_path: Path, form: str) -> None:
    frame = pl.DataFrame({"who": [7, 7, 8], "what": [1, 2, 1], "when": [1.0, 2.0, 3.0]})
    file = tmp_path / f"events.{form}"
    if form == "parquet":
        frame.write_parquet(file)
    else:
        text = frame.write_csv(separator="," if "csv" in form else "\t").encode()
        file.write_bytes(gzip.compress(text) if form.endswith("gz") else text)
    columns = EventColumns(user="who", item="what", time="when")
    interactions = load(TablesConfig(name="mine", interactions=str(file), columns=columns))
    assert told(interactions) == {"7": ["1", "2"], "8": ["1"]}
    assert interactions.times_ms.tolist() == [1000, 2000, 3000]


def test_lone_quotes_in_tab_separated_titles_swallow_nothing(tmp_path: Path) -> None:
    items = 'item_id\ttitle\nx\tFlat iron 2" wide\ny\t"Best" of\nz\tPlain\n'
    titles = load(config(tmp_path, items=items)).items["title"].to_list()
    assert titles == ['Flat iron 2" wide', '"Best" of', "Plain"]


def test_categories_texts_and_years_are_read(tmp_path: Path) -> None:
    items = "item_id\tname\tabout\tkinds\tyear\nx\tX\tlong\tA, B,,A\t1999\ny\tY\t\t\tV\nz\tZ\t \tC\t\n"
    columns = ItemColumns(title="name", text="about", categories="kinds")
    frame = load(config(tmp_path, items=items, item_columns=columns.model_dump(), categories_separator=",")).items
    assert frame["categories"].to_list() == [["A", "B"], [], ["C"]]
    assert frame["text"].to_list() == ["long", None, None]
    assert frame["year"].to_list() == [1999, None, None]


def test_the_fingerprint_names_events_and_texts(tmp_path: Path) -> None:
    items = "item_id\ttitle\nx\tX\ny\tY\nz\tZ\n"
    plain = load(config(tmp_path, items=items)).fingerprint
    assert load(config(tmp_path, items=items)).fingerprint == plain
    assert load(config(tmp_path, items=items.replace("Z", "zz"))).fingerprint != plain
    assert load(config(tmp_path, EVENTS.replace("30", "31"), items)).fingerprint != plain


@pytest.mark.parametrize(
    ("events", "told_about"),
    [
        ("", ["empty", "events.tsv"]),
        ("user_id\titem_id\ttimestamp\n", ["no rows"]),
        ("user_id\titem\ttimestamp\na\tx\t1\n", ["'item_id'", "user_id, item, timestamp", "columns.item"]),
        ("user_id\titem_id\na\tx\n", ["'timestamp'", "columns.time"]),
        ("user_id\titem_id\ttimestamp\na\tx\t1\na\t\t1\n", ["data row 2", "'item_id'"]),
        ("user_id\titem_id\ttimestamp\na\tx\t1\n\tx\t1\n", ["data row 2", "'user_id'"]),
        ("user_id\titem_id\ttimestamp\na\tx\t1\na\ty\tnoon\n", ["data row 2", "'noon'"]),
        ("user_id\titem_id\ttimestamp\na\tx\t1\na\ty\tinf\n", ["data row 2", "'inf'"]),
        ("user_id\titem_id\ttimestamp\na\tx\t-5\n", ["data row 1", "1970"]),
        ("user_id\titem_id\ttimestamp\na\tx\t874724710000\n", ["data row 1", "time_unit"]),
        ("user_id\titem_id\ttimestamp\trating\na\tx\t1\tgood\n", ["data row 1", "'good'"]),
        ("user_id\titem_id\ttimestamp\na\tx\t1\tmore\tthan\tthe header\n", ["cannot be read"]),
    ],
)
def test_bad_events_are_refused_by_file_row_and_cure(tmp_path: Path, events: str, told_about: list[str]) -> None:
    with pytest.raises(DataRefused) as refusal:
        load(config(tmp_path, events))
    for part in ["events.tsv", "Cure: ", *told_about]:
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    ("items", "told_about"),
    [
        ("item_id\ttitle\nx\tX\nx\tagain\n", ["data row 2", "twice"]),
        ("title\nX\n", ["'item_id'", "item_columns.item"]),
        ("item_id\ttitle\n\tX\n", ["data row 1"]),
    ],
)
def test_bad_items_are_refused(tmp_path: Path, items: str, told_about: list[str]) -> None:
    with pytest.raises(DataRefused) as refusal:
        load(config(tmp_path, items=items))
    for part in ["items.tsv", "Cure: ", *told_about]:
        assert part in str(refusal.value)


def test_a_column_that_is_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="'genre'"):
        load(config(tmp_path, items="item_id\ttitle\nx\tX\n", item_columns={"categories": "genre"}))


def test_missing_files_unset_variables_and_unknown_endings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOME_FOLDER", raising=False)
    for path, reason in [
        (f"{tmp_path}/none.csv", "no such file"),
        ("${SOME_FOLDER}/events.tsv", "SOME_FOLDER is not set"),
        (str(tmp_path / "events.xlsx"), "are not read"),
    ]:
        (tmp_path / "events.xlsx").write_text("x")
        with pytest.raises(DataRefused, match=reason):
            load(TablesConfig(name="mine", interactions=path))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(EVENTS.encode())[:20])
    (tmp_path / "a.csv").write_bytes(b"user_id,item_id,timestamp\n\xff\xfe,1,1\n")
    for name in ("a.parquet", "a.csv.gz", "a.csv"):
        with pytest.raises(DataRefused, match=name):
            load(TablesConfig(name="mine", interactions=str(tmp_path / name)))


def test_nothing_left_after_the_filters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="k_core"):
        load(config(tmp_path, k_core=10))


def test_paths_take_variables_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config(tmp_path)
    monkeypatch.setenv("SOME_FOLDER", str(tmp_path))
    assert len(load(TablesConfig(name="mine", interactions="${SOME_FOLDER}/events.tsv")).users) == 5


def test_amazon_beauty_is_read_whole_and_in_order(beauty: Interactions) -> None:
    assert (len(beauty.user_ids), len(beauty.items), len(beauty.users)) == (22_363, 12_101, 198_502)
    assert beauty.items["title"].null_count() == 7
    # 31 users have no time at all; the file is in order already, and stays so.
    assert len(np.unique(beauty.users[beauty.times_ms < 0])) == 31
    assert told(beauty)["1"][:3] == ["1", "2", "3"]
