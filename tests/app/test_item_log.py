"""Against a real server: what is written, followed, missed and found again."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app.file_lock import FileLock
from app.item_log import HASH, LOG, ItemLog, ItemsUnavailable, TooManyItems
from app.item_records import START, ItemRecord, written
from app.valkey_server import Answer, ask, server_program, start_server

Story = Callable[[ItemLog, Redis], Awaitable[None]]


class Server:
    def __init__(self, folder: Path) -> None:
        self.socket = folder / "s"
        self.url = f"unix://{self.socket}"
        life = FileLock(folder / "life")
        assert life.take()
        self.process = start_server(server_program(), folder, self.socket, life=life.descriptor())
        life.release()
        until = time.monotonic() + 10
        while asyncio.run(ask(self.socket)) is not Answer.READY:
            assert time.monotonic() < until
            time.sleep(0.02)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:  # a short path, for a socket
        server = Server(Path(folder))
        yield server
        server.process.kill()
        server.process.wait()


def play(server: Server, story: Story, *, most: int = 100) -> None:
    async def run() -> None:
        log = ItemLog(server.url, most=most, write_timeout_s=0.2)
        raw = Redis.from_url(server.url)
        await raw.flushall()
        try:
            await story(log, raw)
        finally:
            await log.close()
            await raw.aclose()

    asyncio.run(run())


def test_what_is_written_is_followed_in_order(server: Server) -> None:
    async def story(log: ItemLog, raw: Redis) -> None:
        other = ItemLog(server.url, most=100)
        assert ((await other.whole()).records, other._head) == ({}, START)
        first = await log.write("a", written(title="A", text="text", categories=("x", "y")))
        second = await log.write("b", written(removed=True))
        assert first < second
        news = await other.news()
        assert (news.whole, news.head) == (False, second)
        assert news.records == {
            "a": ItemRecord("a", first, "A", "text", ("x", "y")),
            "b": ItemRecord("b", second, removed=True),
        }
        following = asyncio.create_task(other.news())
        await asyncio.sleep(0.05)
        started = time.perf_counter()
        third = await log.write("a", written(title="Again"))
        assert (await following).records == {"a": ItemRecord("a", third, "Again")}
        assert time.perf_counter() - started < 0.5, "who follows is told, and does not poll"
        assert (await log.whole()).records.keys() == {"a", "b"}
        await other.close()

    play(server, story)


@pytest.mark.parametrize("gap", ["trimmed", "removed", "foreign", "all gone"])
def test_after_a_gap_everything_is_read_again(server: Server, gap: str) -> None:
    async def story(log: ItemLog, raw: Redis) -> None:
        other = ItemLog(server.url, most=100)
        await log.write("a", written(title="A"))
        await other.whole()
        for name in ("b", "c", "d"):
            await log.write(name, written(title=name))
        if gap == "trimmed":
            await raw.xtrim(LOG, maxlen=1, approximate=False)
        elif gap == "removed":
            await raw.delete(LOG)
        elif gap == "all gone":
            await raw.flushall()
        else:
            await raw.xadd(LOG, {"not": "ours"})
        await log.write("e", written(title="E"))
        news = await other.news()
        assert news.whole
        assert news.records.keys() == ({"e"} if gap == "all gone" else set("abcde"))
        await log.write("f", written(title="F"))
        news = await other.news()
        assert (news.whole, list(news.records)) == (False, ["f"])
        await other.close()

    play(server, story)


def test_garbage_is_skipped_and_counted(server: Server) -> None:
    async def story(log: ItemLog, raw: Redis) -> None:
        await log.write("good", written(title="Good"))
        for number, garbage in enumerate(
            (b"", b"\xff|\xff", b"1-1", b"1-1|", b"1-1|[]", b'1-1|{"title":1}', b"1-1|{}")
        ):
            await raw.hset(HASH, f"bad-{number}", garbage)
        await raw.hset(HASH, b"\xff\xfe", b'1-1|{"title":"T"}')
        assert list((await log.whole()).records) == ["good"]
        assert log.garbage == 8
        await log.write("bad-0", written(title="Mended"))
        assert list((await log.news()).records) == ["bad-0"]
        assert log.garbage == 7

    play(server, story)


@pytest.mark.parametrize("key", [HASH, LOG])
def test_another_kind_of_key_fails_the_write_whole(server: Server, key: str) -> None:
    async def story(log: ItemLog, raw: Redis) -> None:
        await raw.set(key, "mine")
        with pytest.raises(ItemsUnavailable):
            await log.write("a", written(title="A"))
        assert await raw.keys("naiseki:*") == [key.encode()], "both keys change, or neither"

    play(server, story)


def test_no_more_than_allowed_and_known_ones_may_change(server: Server) -> None:
    async def story(log: ItemLog, raw: Redis) -> None:
        for name in ("a", "b", "a"):
            await log.write(name, written(title=name))
        with pytest.raises(TooManyItems, match="NAISEKI_ITEMS_ADDED"):
            await log.write("c", written(title="C"))
        await log.write("b", written(removed=True))

    play(server, story, most=2)


def test_a_paused_redis_refuses_in_time_and_is_followed_again(server: Server) -> None:
    async def story(log: ItemLog, raw: Redis) -> None:
        await log.write("a", written(title="A"))
        await log.whole()
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            started = time.perf_counter()
            with pytest.raises(ItemsUnavailable):
                await log.write("b", written(title="B"))
            assert time.perf_counter() - started < 2.0
            assert log.errors["timeout"]
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        await log.write("c", written(title="C"))
        assert "c" in (await log.news()).records

    play(server, story)
