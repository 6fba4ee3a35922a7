"""Waiting for what happens at a moment of its own: a process that starts, a client that is noticed to have gone."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(happened: Callable[[], object], *, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
