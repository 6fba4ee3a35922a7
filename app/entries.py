"""What waits for the inference thread, and how it gets its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from app.work import Work

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Done(Generic[ResultT]):
    result: ResultT
    queue_seconds: float


@dataclass(slots=True, eq=False)
class Entry:
    """deadline: of `time.monotonic()`; whoever waits for the future is told there and then when it has passed."""

    work: Work[Any]
    future: asyncio.Future[Done[Any]]
    deadline: float
    queued_at: float = field(default_factory=time.perf_counter)


Outcome = tuple[Entry, Done[Any] | Exception]


def settle(outcomes: Sequence[Outcome]) -> None:
    """On the event loop. An entry that has its answer already, or whose client has gone, is left as it is."""
    for entry, outcome in outcomes:
        if entry.future.done():
            continue
        if isinstance(outcome, Exception):
            entry.future.set_exception(outcome)
        else:
            entry.future.set_result(outcome)
