"""Long work of the event loop, cut into pieces: between two of them, everybody else has a turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

FEW_ITEMS = 100  # are written in a tenth of a millisecond: no piece of its own is needed


class Turns:
    """One block at a time, however many tasks wait for theirs, and the loop goes round between two."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        async with self._lock:
            yield
            await asyncio.sleep(0)
