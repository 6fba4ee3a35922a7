"""Real threads, and real time: what must not be taken for a hang is held to be none."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from app.errors import Problem
from app.hang_watch import HangWatch, seconds_in_line
from tests.app.test_batching import Bench, Note, bench


def watched(story: Callable[[Bench], Awaitable[None]], *, hang_seconds: float, batches: int = 2) -> None:
    """batches: that have run before, and taken no time."""

    async def told(scene: Bench) -> None:
        watch = asyncio.ensure_future(HangWatch(scene.batcher).follow())
        scene.script.gate.set()
        for _ in range(batches):
            await scene.batcher.submit(scene.note("before"))
        scene.script.gate.clear()
        scene.script.entered.clear()
        await story(scene)
        watch.cancel()

    bench(told, hang_seconds=hang_seconds)


def test_a_hang_is_found_and_everything_that_waits_is_answered() -> None:
    async def story(scene: Bench) -> None:
        first = await scene.hold()
        (waiting,) = await scene.submit(scene.note("waiting"))
        for pending in (first, waiting):
            with pytest.raises(Problem) as refused:
                await asyncio.wait_for(pending, 5)
            assert refused.value.status == 503
        assert not scene.batcher.alive
        assert "hangs: 1 entries of v" in (scene.batcher.broken or "")

    watched(story, hang_seconds=0.2)


def test_a_slow_batch_within_its_bounds_is_none() -> None:
    async def story(scene: Bench) -> None:
        first = await scene.hold()
        await asyncio.sleep(0.4)
        scene.script.gate.set()
        await first
        assert scene.batcher.alive

    watched(story, hang_seconds=5.0)


def test_an_estimate_that_nobody_knows_yet_is_not_trusted() -> None:
    async def story(scene: Bench) -> None:
        first = await scene.hold()
        assert scene.batcher.running is not None
        assert scene.batcher.running.most_seconds == 60
        await asyncio.sleep(0.3)
        assert scene.batcher.alive
        scene.script.gate.set()
        await first

    watched(story, hang_seconds=0.1, batches=0)


def test_four_times_the_estimate_where_that_is_more() -> None:
    async def story(scene: Bench) -> None:
        pace = scene.batcher.pace("v", Note)
        for _ in range(2):
            pace.observe(1000, 0.5)
        note = scene.note("long", tokens=1000)
        long = asyncio.ensure_future(scene.batcher.submit(note, deadline=time.monotonic() + 60))
        await asyncio.to_thread(scene.script.entered.wait)
        assert scene.batcher.running is not None
        assert scene.batcher.running.most_seconds == pytest.approx(2.0)
        await asyncio.sleep(0.3)
        assert scene.batcher.alive
        scene.script.gate.set()
        await long

    watched(story, hang_seconds=0.1, batches=0)


def test_a_loop_that_stood_still_says_nothing_of_the_thread() -> None:
    async def story(scene: Bench) -> None:
        first = await scene.hold()
        await asyncio.sleep(0.1)
        time.sleep(1.0)  # the loop stands still, and so would a process that was stopped
        await asyncio.sleep(0.01)
        assert scene.batcher.alive
        scene.script.gate.set()
        await first

    watched(story, hang_seconds=0.6)


def test_a_failed_batch_counts_each_member_by_itself() -> None:
    """Six members of 0.15 s each, run one by one because one of them is poison, are no hang of 0.4 s."""

    async def story(scene: Bench) -> None:
        slow = scene.script.gate
        first = await scene.hold()
        scene.script.poison = {"n0"}
        scene.script.seconds = 0.15
        waiting = await scene.submit(*(scene.note(f"n{i}") for i in range(6)))
        slow.set()
        await first
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert [isinstance(one, Exception) for one in done] == [True] + [False] * 5
        assert scene.batcher.alive

    watched(story, hang_seconds=0.4)


def test_time_in_line_for_a_core() -> None:
    if seconds_in_line(threading.get_native_id()) == 0.0 and not os.path.exists("/proc/self/schedstat"):
        pytest.skip("this system does not tell how long a thread waited for a core")
    assert seconds_in_line(2**22 + 1) == 0.0
    before = seconds_in_line(threading.get_native_id())
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        until = time.monotonic() + 20
        while seconds_in_line(threading.get_native_id()) < before + 0.05:
            assert time.monotonic() < until, "with twice as many busy processes as cores, it must have waited"
    finally:
        for process in spinning:
            process.send_signal(signal.SIGKILL)
            process.wait()
