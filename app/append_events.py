"""How events become calls of `append_events.lua`, and what lies in Redis because of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

Outcome = Literal["accepted", "duplicate", "old"]

MAX_TIMESTAMP_MS = 2**43 - 1
"""The largest |timestamp| whose score, times 1024, is exact in Redis's doubles (the year 2248)."""
EVENT_ID_SECONDS = 86_400
OUTCOMES: Mapping[str, Outcome] = {"a": "accepted", "d": "duplicate", "o": "old"}


@dataclass(frozen=True, slots=True)
class Event:
    """timestamp_ms: since 1970, |t| <= MAX_TIMESTAMP_MS; None is the time of arrival. event_id: makes a repetition
    within EVENT_ID_SECONDS a duplicate whatever its timestamp."""

    user_id: str
    item_id: str
    timestamp_ms: int | None
    event_id: str | None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    item_id: str
    timestamp_ms: int


class AppendScript:
    """The Lua script, its sha1, and its arguments."""

    def __init__(self, kept: int) -> None:
        if kept < 1:
            raise ValueError(f"kept must be at least 1, not {kept}")
        self._kept = kept
        self.text = files("app").joinpath("append_events.lua").read_text(encoding="utf-8")
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def call(self, user_id: str, events: Sequence[Event], now_ms: int) -> list[str | int]:
        """What follows the sha in EVALSHA: number of keys, keys, arguments. `events` are this user's, in order.

        Raises ValueError for a timestamp out of range or an id that is not UTF-8.
        """
        keys = [user_key(user_id, "history"), user_key(user_id, "state")]
        arguments: list[str | int] = [self._kept, EVENT_ID_SECONDS]
        for event in events:
            timestamp_ms = now_ms if event.timestamp_ms is None else event.timestamp_ms
            if abs(timestamp_ms) > MAX_TIMESTAMP_MS:
                raise ValueError(f"timestamp {timestamp_ms} is out of range: milliseconds since 1970 are expected")
            event.item_id.encode()
            if event.event_id is not None:
                event.event_id.encode()
                keys.append(user_key(user_id, f"event:{event.event_id}"))
            arguments += [timestamp_ms, event.item_id, 0 if event.event_id is None else len(keys)]
        return [len(keys), *keys, *arguments]

    @staticmethod
    def fits(call: Sequence[str | int], reply: bytes) -> bool:
        """Whether `reply` can be the script's answer to `call`: one letter of OUTCOMES per event."""
        events = (len(call) - 1 - int(call[0]) - 2) // 3
        return len(reply) == events and all(chr(letter) in OUTCOMES for letter in reply)


def user_key(user_id: str, part: str) -> str:
    """All keys of a user share the hash tag `{user}`, hence a cluster's slot. A brace in the id would end the tag."""
    user_id.encode()
    tag = user_id.replace("%", "%25").replace("}", "%7D")
    return f"naiseki:{{{tag}}}:{part}"


def stored_event(member: bytes) -> StoredEvent:
    """The event that a member of a history stands for. Raises ValueError for anything else."""
    timestamp_ms, bar, item_id = member.decode().partition("|")
    if not bar:
        raise ValueError(f"{member!r}")
    return StoredEvent(item_id, int(timestamp_ms))
