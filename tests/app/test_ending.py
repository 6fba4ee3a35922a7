from __future__ import annotations

import asyncio
import contextlib

from app.ending import end


async def forgetting(cancellations: int) -> None:
    """Ends at the last of them, as one who asks Redis may."""
    for _ in range(cancellations - 1):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
    await asyncio.sleep(60)


async def failing() -> None:
    raise RuntimeError("before anybody ended it")


def test_a_task_that_forgets_a_cancellation_is_ended() -> None:
    async def run() -> None:
        task = asyncio.create_task(forgetting(3))
        await asyncio.sleep(0)
        await asyncio.wait_for(end(task), 20)
        assert task.cancelled()

    asyncio.run(run())


def test_what_has_ended_already_is_left_alone() -> None:
    async def run() -> None:
        await end(None)
        task = asyncio.create_task(failing())
        await asyncio.wait([task])
        await end(task)
        assert isinstance(task.exception(), RuntimeError)

    asyncio.run(run())
