"""Keeping one program alive."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.demo.processes import Processes, described


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before a restart: `first`, doubled up to `longest`; forgotten after `steady` seconds of life."""

    first: float = 1.0
    longest: float = 30.0
    steady: float = 60.0


class Supervised:
    """One program that is started again whenever it ends."""

    def __init__(
        self,
        processes: Processes,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        log: Path,
        backoff: Backoff | None = None,
    ) -> None:
        self.log = log
        self.deaths_in_a_row = 0
        self._processes = processes
        self._command = command
        self._environment = environment
        self._backoff = backoff or Backoff()
        self._thread = threading.Thread(target=self._keep_alive, name="supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _keep_alive(self) -> None:
        while True:
            born = time.monotonic()
            with self.log.open("ab") as output:
                process = self._processes.start(self._command, self._environment, output=output)
            if process is None:
                return
            status = process.wait()
            steady = time.monotonic() - born > self._backoff.steady
            self.deaths_in_a_row = 1 if steady else self.deaths_in_a_row + 1
            pause = min(self._backoff.longest, self._backoff.first * 2 ** min(self.deaths_in_a_row - 1, 10))
            if self._processes.ending:
                return
            print(
                f"The service ended ({described(status)}) and starts again in {pause:g} s. Log: {self.log}", flush=True
            )
            time.sleep(pause)
