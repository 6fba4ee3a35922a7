"""What lies in Redis of impressions and clicks: per day, version and label the sums, and the counts of each user.

Bounded: a day's hash holds the counts of `MOST_USERS` users, twice that of users who never click. Beyond it every
second user is forgotten, by a hash of the user, so that the same ones stay under every version and a comparison is
fair. All of it expires.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import cast

from redis.asyncio import Redis

from app.request_ids import LABELS, Answered, version_hash

DAY_S = 86_400
KEPT_DAYS = 14
MOST_USERS = 10_000
CLICKS_LATE_S = 60
"""How much longer than the click window a click is remembered: the clocks of replicas differ."""
_PREFIX = "naiseki:feedback"
_VERSIONS = f"{_PREFIX}:versions"
_FIELDS_PER_SCAN = 1000
_PER_CALL = 500


@dataclass(frozen=True, slots=True)
class Group:
    """What is counted together. day: of the answer, in days since 1970 (UTC)."""

    day: int
    version_hash: str
    letter: str

    @classmethod
    def of(cls, answered: Answered) -> Group:
        return cls(answered.at_s // DAY_S, answered.version_hash, answered.letter)

    @property
    def key(self) -> str:
        return f"{_PREFIX}:{self.day}:{self.version_hash}:{self.letter}"


@dataclass(slots=True)
class Tally:
    """What has happened in a group since it was last written.

    version: its name, where it is known. users: digest -> impressions. clicks: (digest of request and item, digest of
    the user).
    """

    version: str | None = None
    impressions: int = 0
    users: Counter[str] = field(default_factory=Counter)
    clicks: list[tuple[str, str]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.users) + len(self.clicks)


@dataclass(frozen=True, slots=True)
class UserCounts:
    impressions: int
    clicks: int


@dataclass(frozen=True, slots=True)
class Counts:
    """One group as it is kept. level: of 2^level users one is kept, by `kept_at`."""

    group: Group
    impressions: int
    clicks: int
    level: int
    users: Mapping[str, UserCounts]


def digest(text: str) -> str:
    """16 hexadecimal digits: users are told apart by it, and not named."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def kept_at(user: str, level: int) -> bool:
    """Whether the user of this digest is among those that `level` keeps; the Lua script says the same."""
    return int(user[:8], 16) % (1 << level) == 0


class CountScript:
    """The Lua script, and its arguments."""

    def __init__(self, *, window_s: float, most_users: int = MOST_USERS) -> None:
        self._window_s, self._most_users = window_s, most_users
        self.text = files("app").joinpath("count_feedback.lua").read_text(encoding="utf-8")

    def calls(self, group: Group, tally: Tally) -> list[list[str | int]]:
        """What follows the script in EVAL, in portions: a long call would hold up the readers of histories."""
        users, impressions = list(tally.users.items()), tally.impressions
        calls = []
        for at in range(0, max(len(users), len(tally.clicks), 1), _PER_CALL):
            portion = slice(at, at + _PER_CALL)
            calls.append(
                self._call(group, tally.version, impressions, users=users[portion], clicks=tally.clicks[portion])
            )
            impressions = 0
        return calls

    def _call(
        self,
        group: Group,
        version: str | None,
        impressions: int,
        *,
        users: Sequence[tuple[str, int]],
        clicks: Sequence[tuple[str, str]],
    ) -> list[str | int]:
        keys = [group.key, _VERSIONS, *(f"{_PREFIX}:click:{click}" for click, _ in clicks)]
        remembered = int(self._window_s) + 2 * CLICKS_LATE_S
        arguments: list[str | int] = [group.version_hash, version or "", (KEPT_DAYS + 1) * DAY_S, remembered]
        arguments += [self._most_users, impressions, len(users)]
        for user, number in users:
            arguments += [user, number]
        return [len(keys), *keys, *arguments, *(user for _, user in clicks)]


async def read_counts(client: Redis, version: str, today: int) -> list[Counts]:
    """Everything that is kept of a version; empty for one that has not answered. Raises what redis-py raises."""
    found = []
    for day in range(today - KEPT_DAYS + 1, today + 1):
        for letter in LABELS:
            group = Group(day, version_hash(version), letter)
            fields = await _fields(client, group.key)
            if fields:
                found.append(_counts(group, fields))
    return found


async def _fields(client: Redis, key: str) -> dict[str, int]:
    """In steps: neither Redis nor the event loop stands still for a long hash."""
    fields: dict[str, int] = {}
    cursor = 0
    while True:
        cursor, part = await client.hscan(key, cursor, count=_FIELDS_PER_SCAN)
        fields |= {name.decode(): int(value) for name, value in cast("dict[bytes, bytes]", part).items()}
        if cursor == 0:
            return fields


def _counts(group: Group, fields: Mapping[str, int]) -> Counts:
    users = {
        name[2:]: UserCounts(number, fields.get(f"c:{name[2:]}", 0))
        for name, number in fields.items()
        if name.startswith("i:")
    }
    return Counts(group, fields.get("impressions", 0), fields.get("clicks", 0), fields.get("level", 0), users)
