from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.item_records import ItemRecord, Sequence, read_record, written
from model_store.manifest import Manifest

NOON_MS = 1_795_521_600_000


def manifest(at: str = "2026-11-24T12:00:00Z") -> Manifest:
    return cast("Manifest", SimpleNamespace(catalogue_at=at))


@pytest.mark.parametrize(
    ("ms", "removed", "has_item", "yields"),
    [
        (NOON_MS - 1, False, True, True),
        (NOON_MS + 1, False, True, False),
        (NOON_MS - 1, False, False, False),  # an item that the training table did not hold goes on being shown
        (NOON_MS - 1, True, True, False),  # what was removed stays away, whatever is trained
    ],
)
def test_what_yields_to_a_bundle(ms: int, *, removed: bool, has_item: bool, yields: bool) -> None:
    record = ItemRecord("x", Sequence(ms, 0), "X", removed=removed)
    assert record.yields_to(manifest(), has_item=has_item) is yields


def test_a_manifest_without_a_time_is_older_than_everything() -> None:
    assert not ItemRecord("x", Sequence(1, 0), "X").yields_to(manifest("long ago"), has_item=True)


@given(
    title=st.text(min_size=1),
    text=st.none() | st.text(),
    categories=st.lists(st.text(), max_size=4).map(tuple),
    ms=st.integers(0, 10**15 - 1),
)
def test_written_and_read_again(title: str, text: str | None, categories: tuple[str, ...], ms: int) -> None:
    try:
        title.encode(), str(text).encode(), str(categories).encode()
    except UnicodeEncodeError:
        return  # the JSON parser refuses lone surrogates
    value = f"{ms}-3|{written(title=title, text=text, categories=categories)}".encode()
    assert read_record(b"id", value) == ItemRecord("id", Sequence(ms, 3), title, text, categories)
    assert read_record(b"id", f"{ms}-3|{written(removed=True)}".encode()).removed


@given(st.binary() | st.tuples(st.just(b"1-1|"), st.binary()).map(b"".join))
def test_garbage_is_a_value_error(value: bytes) -> None:
    with contextlib.suppress(ValueError):
        read_record(b"id", value)


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "1-1-1", "１-1", "1" * 16 + "-1"])
def test_no_sequence_number(text: str) -> None:
    with pytest.raises(ValueError, match="sequence"):
        Sequence.read(text)


def test_numbers_are_in_order() -> None:
    assert Sequence.read("9-99") < Sequence.read("10-0") < Sequence.read("10-1")
