from __future__ import annotations

import time

import pytest

from app.request_ids import LETTERS, Answered, parse_request_id, request_id, version_hash


def test_the_hash_of_a_version() -> None:
    assert version_hash("20260101t000000-e4srec-0123456789ab") == "0123456789ab"
    assert version_hash("mine") == "mine"


@pytest.mark.parametrize("label", LETTERS)
@pytest.mark.parametrize("version", ["20260101t000000-e4srec-0123456789ab", "mine", "a.b_c", "trailing-"])
def test_an_id_says_what_it_was_made_of(label: str, version: str) -> None:
    before = int(time.time())
    answered = parse_request_id(request_id(version, label))
    assert answered is not None
    assert (answered.label, answered.version_hash) == (label, version_hash(version))
    assert before <= answered.at_s <= time.time()


def test_two_labels_never_share_a_letter() -> None:
    assert len(set(LETTERS.values())) == len(LETTERS)


def test_ids_are_short_and_differ() -> None:
    ids = {request_id("20260101t000000-e4srec-0123456789ab", "live") for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(one) for one in ids} == {35}


def test_the_form_is_what_is_documented() -> None:
    assert parse_request_id("c-0123456789ab-6af2c0de5b1e9d0c4a77") == Answered("c", "0123456789ab", 0x6AF2C0DE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "what is this",
        "x-0-6af2c0de5b1e9d0c4a77",
        "l-a:b-6af2c0de5b1e9d0c4a77",
        "l-a-6af2c0de5b1e9d0c4a7",
        "l-a-6AF2C0DE5B1E9D0C4A77",
        "l-a-6af2c0de5b1e9d0c4a77\n",
    ],
)
def test_anything_else_is_not_ours(text: str) -> None:
    assert parse_request_id(text) is None
