"""How a background task is ended, so that whoever ends it can go on."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN_S = 0.5


async def end(task: asyncio.Task[Any] | None) -> None:
    """Cancels it and waits until it has ended, however it ends; None has ended already.

    Again after AGAIN_S: before Python 3.12 `asyncio.wait_for` forgets a cancellation that comes in the moment in which
    its work is done (bpo-37658), and redis-py sends every command through one. A loop then goes on as if nobody had
    asked.
    """
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=AGAIN_S)
