"""Load on a service: at a set rate whatever it answers (open loop), or as much as it can take (its peak)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.torture.http_connection import Answer, Connections

Body = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Sent:
    """One request of a load. due, done: seconds of time.perf_counter. late: how long after `due` it was sent."""

    due: float
    late: float
    done: float
    answer: Answer

    @property
    def seconds(self) -> float:
        """From when it was due: a service that makes clients wait in line must not look fast."""
        return self.done - self.due


@dataclass
class OpenLoad:
    """`async with OpenLoad(port, request, rate) as load`: `rate` requests per second until the block ends.

    request: the bytes of the n-th. `ended()` stops sending and waits for what is under way.
    """

    port: int
    request: Body
    rate: float
    sent: list[Sent] = field(default_factory=list)
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> OpenLoad:
        self._connections = Connections(self.port)
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.ended()
        await self._connections.close()

    async def ended(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, *self._under_way, return_exceptions=True)

    async def _run(self) -> None:
        started, n = time.perf_counter(), 0
        while True:
            due = started + n / self.rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self._one(n, due))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            n += 1
            if n % 64 == 0:
                await asyncio.sleep(0)  # a generator that has fallen behind still reads answers

    async def _one(self, n: int, due: float) -> None:
        late = time.perf_counter() - due
        answer = await self._connections.ask(self.request(n))
        self.sent.append(Sent(due, late, time.perf_counter(), answer))

    def between(self, start: float, end: float) -> list[Sent]:
        return [one for one in self.sent if start <= one.due < end]


async def peak(port: int, request: Body, *, seconds: float, clients: int = 32) -> float:
    """Answers per second (status 200) with `clients` that each ask again at once."""
    answered = 0
    counter = iter(range(10**9))
    until = time.perf_counter() + seconds

    async def client(connections: Connections) -> None:
        nonlocal answered
        while time.perf_counter() < until:
            answer = await connections.ask(request(next(counter)))
            answered += answer.status == 200

    async with Connections(port) as connections:
        started = time.perf_counter()
        await asyncio.gather(*(client(connections) for _ in range(clients)))
    return answered / (time.perf_counter() - started)


def percentile_ms(seconds: Sequence[float], which: float = 99) -> float:
    return float(np.percentile(np.array(seconds), which)) * 1000 if seconds else float("nan")


def failed(sent: Sequence[Sent]) -> list[Sent]:
    return [one for one in sent if one.answer.status != 200]
