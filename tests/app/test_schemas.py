from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.schemas import EventIn, RecommendRequest


def timestamp(value: int | str) -> int | None:
    return EventIn.model_validate({"user_id": "u", "item_id": "i", "timestamp": value}).timestamp


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00.5z", 500),
        ("1970-01-01 01:00:00+01:00", 0),
        ("2024-02-29T12:00:00.123456-00:30", 1709209800123),
    ],
)
def test_rfc_3339_becomes_milliseconds(text: str, milliseconds: int) -> None:
    assert timestamp(text) == milliseconds


@given(st.integers(0, 2**53))
def test_integers_stay(milliseconds: int) -> None:
    assert timestamp(milliseconds) == milliseconds


@given(st.text())
def test_any_text_is_a_time_or_refused(text: str) -> None:
    try:
        found = timestamp(text)
    except ValidationError:
        return
    assert found is not None


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_an_id_is_1_to_256_bytes_without_control_characters(text: str) -> None:
    good = 1 <= len(text.encode()) <= 256 and not any(c < " " or "\x7f" <= c <= "\x9f" for c in text)
    try:
        request = RecommendRequest.model_validate({"user_id": text})
    except ValidationError:
        assert not good
    else:
        assert good
        assert request.user_id == text


def test_a_history_that_is_empty_is_not_an_absent_one() -> None:
    assert RecommendRequest.model_validate_json('{"history": []}').history == ()
    assert RecommendRequest.model_validate_json("{}").history is None
