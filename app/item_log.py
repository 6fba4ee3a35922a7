"""Items that were put or removed, in Redis: a hash of the last record of each, and a log that replicas follow.

Redis slow or gone is an expected state: a change is then refused, and what is known already goes on being served.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, cast

from redis.exceptions import NoScriptError

from app.item_records import START, ItemRecord, Sequence, read_record
from app.redis_guard import HistoriesUnavailable, RedisGuard, connect

HASH, LOG = "naiseki:items", "naiseki:items:log"
LOG_KEPT = 10_000
BLOCK_S = 1.0
_READ_S = 10.0  # a start with the largest overlay reads some megabytes
_FOLLOWED_AT_ONCE = 1000
_log = logging.getLogger(__name__)


class ItemsUnavailable(Exception):
    """Redis did not do what was asked. A change that failed so may still have been stored; repeating it is safe."""


class TooManyItems(Exception):
    """As many items were put or removed as the service is set up to keep."""


@dataclass(frozen=True, slots=True, eq=False)
class News:
    """records: what changed since the last look, or (whole) all there is. head: where the log stood then."""

    records: dict[str, ItemRecord]
    head: Sequence
    whole: bool


class ItemLog:
    """Writes and follows. Belongs to the event loop that made it; `close` it there.

    most: records that the hash may hold, tombstones included. garbage: fields of the hash that are no records.
    evicting: the policy by which this Redis may drop keys; under one nothing is written.
    """

    def __init__(
        self,
        url: str,
        *,
        most: int,
        write_timeout_s: float = 1.0,
        evicting: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._evicting = evicting
        self._most, self._write_s = most, 2 * write_timeout_s
        self._writes = connect(url, write_timeout_s, connections=8, wait_s=write_timeout_s)
        # A blocking read holds its connection: it has one of its own, with a timeout of its own.
        self._reads = connect(url, _READ_S, connections=1, wait_s=_READ_S)
        self._write_guard, self._read_guard = RedisGuard(), RedisGuard()
        self._script = files("app").joinpath("put_item.lua").read_text(encoding="utf-8")
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self._head = START
        self._known_garbage: frozenset[bytes] = frozenset()

    @property
    def errors(self) -> Mapping[str, int]:
        return Counter(self._write_guard.errors) + Counter(self._read_guard.errors)

    @property
    def garbage(self) -> int:
        return len(self._known_garbage)

    async def write(self, item_id: str, record: str) -> Sequence:
        """Stores the record (as `item_records.written` makes it), durably as far as Redis is; returns its number.

        Raises ItemsUnavailable, TooManyItems.
        """
        if (policy := self._evicting()) is not None:
            raise ItemsUnavailable(f"Redis may drop what it is given (maxmemory-policy {policy})")
        arguments = (2, HASH, LOG, item_id, record, str(self._most), str(LOG_KEPT))
        try:
            said, value = await self._write_guard.call(lambda: self._evaluate(arguments), deadline_s=self._write_s)
        except HistoriesUnavailable as error:
            raise ItemsUnavailable(str(error)) from error
        if said == b"full":
            raise TooManyItems(
                f"{int(value)} items were put or removed since their catalogues were made, and {self._most} are kept "
                "(NAISEKI_ITEMS_ADDED): train a version with them (python -m app export-items), then forget-items"
            )
        return Sequence.read(value.decode())

    async def whole(self) -> News:
        """Everything that is stored, and where the log stands with it: read at one moment."""
        pipe = self._reads.pipeline(transaction=True)
        pipe.xrevrange(LOG, count=1)
        pipe.hgetall(HASH)
        last, stored = await self._read(lambda: pipe.execute())
        self._head = Sequence.read(last[0][0].decode()) if last else START
        return News(self._parsed(cast("dict[bytes, bytes]", stored), all_there_is=True), self._head, whole=True)

    async def news(self) -> News:
        """What changed after the last call; waits up to BLOCK_S for something. Whole after a gap in the log."""
        found = await self._read(
            lambda: self._reads.xread({LOG: str(self._head)}, count=_FOLLOWED_AT_ONCE, block=int(BLOCK_S * 1000))
        )
        entries = found[0][1] if found else []
        ids: dict[bytes, None] = {}
        head = self._head
        for number, fields in entries:
            if fields.get(b"after") != str(head).encode() or b"item" not in fields:
                _log.warning("the log of items has a gap after %s: all items are read again", head)
                return await self.whole()
            head = Sequence.read(number.decode())
            ids[fields[b"item"]] = None
        if not entries:
            return News({}, head, whole=False)
        values = await self._read(lambda: cast("Any", self._reads.hmget(HASH, list(ids))))
        stored = {item_id: value for item_id, value in zip(ids, values, strict=True) if value is not None}
        records = self._parsed(stored, all_there_is=False)
        self._head = head  # only now: what failed on the way is read again
        return News(records, head, whole=False)

    async def forget(self, item_ids: list[str]) -> int:
        """Removes records, so that the bundles' own items are seen again; running services notice when they start."""
        try:
            removed = await self._write_guard.call(
                lambda: cast("Any", self._writes.hdel(HASH, *item_ids)), deadline_s=self._write_s
            )
        except HistoriesUnavailable as error:
            raise ItemsUnavailable(str(error)) from error
        return int(removed)

    async def close(self) -> None:
        await self._reads.aclose()
        await self._writes.aclose()

    async def _evaluate(self, arguments: tuple[int | str, ...]) -> tuple[bytes, bytes]:
        try:
            answer = await cast("Any", self._writes).execute_command("EVALSHA", self._sha, *arguments)
        except NoScriptError:  # Redis forgets scripts when it restarts
            answer = await cast("Any", self._writes).execute_command("EVAL", self._script, *arguments)
        said, value = answer
        return said, value

    async def _read(self, ask: Any) -> Any:
        try:
            return await self._read_guard.call(ask, deadline_s=_READ_S + BLOCK_S)
        except HistoriesUnavailable as error:
            raise ItemsUnavailable(str(error)) from error

    def _parsed(self, stored: dict[bytes, bytes], *, all_there_is: bool) -> dict[str, ItemRecord]:
        records: dict[str, ItemRecord] = {}
        bad: dict[bytes, str] = {}
        for item_id, value in stored.items():
            try:
                record = read_record(item_id, value)
            except ValueError as error:
                bad[item_id] = str(error)
                continue
            records[record.item_id] = record
        for item_id, reason in list(bad.items())[:5]:
            if item_id not in self._known_garbage:
                _log.error("%s in Redis: field %r is no item record and is skipped: %s", HASH, item_id[:80], reason)
        kept = frozenset() if all_there_is else self._known_garbage - stored.keys()
        self._known_garbage = kept | bad.keys()
        return records
