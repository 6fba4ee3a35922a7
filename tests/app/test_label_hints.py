"""Hints over a real server; and what is left when there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from app.embedded_valkey import EmbeddedValkey
from app.label_hints import LabelHints
from tests.ports import free_port


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def with_server(folder: Path, story: Callable[[str, EmbeddedValkey], Awaitable[None]]) -> None:
    async def run() -> None:
        server = EmbeddedValkey(folder)
        url = await server.start()
        try:
            await story(url, server)
        finally:
            await server.stop()

    asyncio.run(run())


def test_who_says_so_is_heard_by_all(tmp_path: Path) -> None:
    async def story(url: str, _: EmbeddedValkey) -> None:
        heard = {"one": 0, "other": 0}

        def hear(name: str) -> Callable[[], None]:
            return lambda: heard.update({name: heard[name] + 1})

        one, other = LabelHints(url, heard=hear("one")), LabelHints(url, heard=hear("other"))
        for hints in (one, other):
            hints.start()
        try:
            await asyncio.wait_for(asyncio.gather(one.listening.wait(), other.listening.wait()), 20)
            assert heard == {"one": 1, "other": 1}, "whoever begins to listen has missed what was said before"
            await asyncio.sleep(1.5)  # longer than a socket may take to answer: silence is no failure
            assert one.listening.is_set()
            await one.say(7)
            await until(lambda: heard == {"one": 2, "other": 2}, 1.0)
        finally:
            await one.close()
            await other.close()

    with_server(tmp_path, story)


def test_a_server_that_comes_back_is_heard_again(tmp_path: Path) -> None:
    async def story(url: str, server: EmbeddedValkey) -> None:
        heard: list[None] = []
        hints = LabelHints(url, heard=lambda: heard.append(None))
        hints.start()
        try:
            await until(hints.listening.is_set)
            assert server._process is not None
            server._process.kill()  # its owner starts it again
            await until(lambda: not hints.listening.is_set())
            await until(hints.listening.is_set)
            before = len(heard)
            assert before >= 2
            await hints.say(8)
            await until(lambda: len(heard) > before)
        finally:
            await hints.close()

    with_server(tmp_path, story)


def test_a_silent_channel_is_opened_anew(tmp_path: Path) -> None:
    async def story(url: str, _: EmbeddedValkey) -> None:
        heard: list[None] = []
        hints = LabelHints(url, heard=lambda: heard.append(None), silent_s=0.1)
        hints.start()
        try:
            await until(lambda: len(heard) >= 3)
        finally:
            await hints.close()

    with_server(tmp_path, story)


def test_without_a_server_nothing_fails() -> None:
    port = free_port()

    async def run() -> None:
        hints = LabelHints(f"redis://127.0.0.1:{port}/0", heard=lambda: None)
        hints.start()
        for _ in range(10):
            await hints.say(1)
        assert not hints.listening.is_set()
        await hints.close()

    asyncio.run(run())
