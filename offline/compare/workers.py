"""Worker processes that do units of work one after the other: one dies or takes too long, and the rest goes on."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess

import torch

from offline.compare.plan import Plan, Unit
from offline.compare.settings import LONGEST_UNIT
from offline.training.processes import end_with_parent

logger = logging.getLogger(__name__)
Work = Callable[[Unit], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """failure: None where it was done."""

    unit: Unit
    seconds: float
    failure: str | None


class _Worker:
    """A process with one thread of arithmetic, which is told units and answers with what became of them."""

    def __init__(self, context: SpawnContext, work: Work) -> None:
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, work), daemon=True)
        self.process.start()
        theirs.close()
        self.unit: Unit | None = None
        self.started = 0.0
        self._stopped = False

    def begin(self, unit: Unit) -> None:
        self.unit, self.started = unit, time.monotonic()
        self.connection.send(unit)

    def outcome(self) -> Outcome:
        """Of the unit it had; called when it has answered or died."""
        assert self.unit is not None
        unit, self.unit = self.unit, None
        seconds = time.monotonic() - self.started
        try:
            return Outcome(unit, seconds, self.connection.recv())
        except (EOFError, OSError):
            self.process.join()
            if self._stopped:
                return Outcome(
                    unit, seconds, f"stopped after {seconds / 60:.0f} minutes, the most that a unit may take"
                )
            return Outcome(unit, seconds, f"its process died (exit code {self.process.exitcode})")

    def stop_if_late(self) -> None:
        if self.unit is not None and time.monotonic() - self.started > 60 * LONGEST_UNIT:
            self._stopped = True
            self.process.kill()

    def stop(self) -> None:
        self.process.terminate()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
        self.connection.close()


def _serve(connection: Connection, work: Work) -> None:
    """Until the other end closes. Ctrl-C is the parent's business, and so is the end of this process."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    with suppress(EOFError):
        while True:
            unit = connection.recv()
            try:
                work(unit)
            except Exception as error:
                logger.exception("%s", unit.name)
                connection.send(f"{type(error).__name__}: {' '.join(str(error).split())}")
            else:
                connection.send(None)


def do_all(plan: Plan, work: Work, *, say: Callable[[str], None], deadline: float | None = None) -> dict[str, str]:
    """Unit -> why it was not done, for those that were not; the rest goes on without what they needed.

    work: picklable; called in a worker. deadline: of the monotonic clock, after which nothing more is begun.
    """
    context = multiprocessing.get_context("spawn")
    # Libraries that read the environment when they are imported must find it there.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    waiting = sorted(plan.units, key=plan.turn)
    finished, failed = set[str](), dict[str, str]()
    workers = [_Worker(context, work) for _ in range(min(plan.settings.jobs, len(waiting)))]
    try:
        while True:
            if deadline is not None and time.monotonic() > deadline:
                failed |= {unit.name: "not begun: the hours are over" for unit in waiting}
                waiting = []
            waiting = _drop_hopeless(waiting, failed)
            for worker in workers:
                if worker.unit is None and (unit := _next(waiting, finished)) is not None:
                    waiting.remove(unit)
                    worker.begin(unit)
            busy = [worker for worker in workers if worker.unit is not None]
            if not busy:
                return failed
            for index, outcome in _await(workers):
                _note(outcome, finished, failed, say=say, total=len(plan.units))
                if not workers[index].process.is_alive():
                    workers[index] = _Worker(context, work)
    finally:
        for worker in workers:
            worker.stop()


def _await(workers: list[_Worker]) -> list[tuple[int, Outcome]]:
    """What has ended: at least one, or nothing after a minute. A worker that is late is stopped."""
    busy = {id(worker.connection): index for index, worker in enumerate(workers) if worker.unit is not None}
    answered = wait([workers[index].connection for index in busy.values()], timeout=60)
    for index in busy.values():
        workers[index].stop_if_late()
    return [(index, workers[index].outcome()) for key, index in busy.items() if any(id(c) == key for c in answered)]


def _next(waiting: list[Unit], finished: set[str]) -> Unit | None:
    return next((unit for unit in waiting if unit.needs <= finished), None)


def _drop_hopeless(waiting: list[Unit], failed: dict[str, str]) -> list[Unit]:
    """Takes out what needs something that failed, and says so; until nothing changes, for chains of several."""
    while hopeless := [unit for unit in waiting if unit.needs & failed.keys()]:
        failed |= {unit.name: f"needs {min(unit.needs & failed.keys())}" for unit in hopeless}
        waiting = [unit for unit in waiting if unit.name not in failed]
    return waiting


def _note(
    outcome: Outcome, finished: set[str], failed: dict[str, str], *, say: Callable[[str], None], total: int
) -> None:
    name = outcome.unit.name
    if outcome.failure is None:
        finished.add(name)
    else:
        failed[name] = outcome.failure
    place = f"[{len(finished) + len(failed)}/{total}]"
    say(
        f"{place} {name}: {outcome.seconds / 60:.1f} "
        f"min{'' if outcome.failure is None else f' FAILED: {outcome.failure}'}"
    )
