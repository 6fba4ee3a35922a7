from __future__ import annotations

import pytest
from redis.crc import key_slot

from app.append_events import AppendScript, Event, StoredEvent, stored_event, user_key


def test_call_names_each_event_s_id_by_its_place_among_the_keys() -> None:
    events = [Event("u", "a", 5, None), Event("u", "b", None, "x"), Event("u", "c", 7, "y")]
    call = AppendScript(kept=10).call("u", events, 99)
    keys = ["naiseki:{u}:history", "naiseki:{u}:state", "naiseki:{u}:event:x", "naiseki:{u}:event:y"]
    assert call == [4, *keys, 10, 86_400, 5, "a", 0, 99, "b", 3, 7, "c", 4]


@pytest.mark.parametrize("user_id", ["u", "}", "}x", "{", "a{b}c", "a}:event:x", "%7D", "日本", "a b"])
def test_keys_of_a_user_share_a_slot(user_id: str) -> None:
    keys = [user_key(user_id, part) for part in ("history", "state", "event:x", "event:}:history")]
    assert len({key_slot(key.encode()) for key in keys}) == 1
    assert keys[0].count("}") == 1
    assert keys[0].index("}") > keys[0].index("{") + 1


def test_keys_of_two_users_differ() -> None:
    assert user_key("}", "history") != user_key("%7D", "history")
    assert user_key("a}:event:x", "history") != user_key("a", "event:x}:history")


@pytest.mark.parametrize("item_id", ["a", "", "|", "a|b", "日本"])
def test_stored_event_reads_what_the_script_writes(item_id: str) -> None:
    assert stored_event(f"-5|{item_id}".encode()) == StoredEvent(item_id, -5)


@pytest.mark.parametrize("member", [b"", b"5", b"x|a", b"\xff|a", b"1.5|a"])
def test_anything_else_is_refused(member: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        stored_event(member)
