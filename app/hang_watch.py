"""Whether the inference thread hangs: a batch in which it stays far longer than batches like it take.

A thread cannot be killed from Python. So when one hangs, everything that waits is answered, readiness goes off, and the
process ends for its supervisor (`server.py`).
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from app.batch_runner import Running
from app.batching import Batcher

LOOK_SECONDS = 0.05


class HangWatch:
    """Lives on the event loop, and looks at the batcher a few times each second.

    Only time that the thread could have used counts. A process that was stopped, an event loop that stood still, and a
    thread that waited in line for a core (on a machine where others compute) say nothing about a hang.
    """

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    async def follow(self) -> None:
        """Until it has found a hang, or is cancelled."""
        seen: Running | None = None
        spent = in_line = 0.0
        before = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            passed, before = min(now - before, 2 * LOOK_SECONDS), now
            running = self._batcher.running
            if running is None:
                seen = None
                continue
            waited = seconds_in_line(running.thread)
            if running is not seen:
                seen, spent, in_line = running, 0.0, waited
                continue
            spent += max(0.0, passed - (waited - in_line))
            in_line = waited
            if spent > running.most_seconds:
                self._batcher.give_up(
                    f"the inference thread hangs: {running.entries} entries of {running.version} "
                    f"have taken {spent:.1f} s; the process ends for its supervisor"
                )
                return


def seconds_in_line(thread: int) -> float:
    """How long a thread of this process was ready to run and not let; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
