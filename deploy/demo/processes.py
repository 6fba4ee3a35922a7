"""Starting programs, and leaving none behind."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import IO

import psutil

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_WISH_S = 1.0
_PR_SET_CHILD_SUBREAPER = 36


class StepFailed(Exception):
    """A program that the demo needs ended with an error; the message names it."""


class Processes:
    """All programs that were started here. Used as a context, whose end stops each of them and all that they started.

    Each runs in a session of its own: Ctrl-C then reaches only the demo, which stops them in good order.
    """

    def __init__(self, *, patience: float = 30.0) -> None:
        """patience: seconds between SIGTERM and SIGKILL."""
        self._patience = patience
        self._lock = threading.Lock()
        self._started: list[subprocess.Popen[bytes]] = []
        self._closed = False
        self._hurry = threading.Event()
        self._asked_to_end_at = -math.inf
        self._not_ours = _descendants()

    def __enter__(self) -> Processes:
        _adopt_orphans(True)
        for number in ENDING:
            # Under nohup a hang-up stays ignored.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        _adopt_orphans(False)

    @property
    def ending(self) -> bool:
        return self._closed

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], *, output: IO[bytes] | None = None
    ) -> subprocess.Popen[bytes] | None:
        """The started program, or None when everything is ending. output: None = the terminal."""
        with self._lock:
            if self._closed:
                return None
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
            )
            self._started = [known for known in self._started if known.poll() is None]
            self._started.append(process)
            return process

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Runs to the end; StepFailed unless it exits with 0."""
        process = self.start(command, environment)
        if process is not None and process.wait() != 0:
            raise StepFailed(f"`{' '.join(command)}` ended with {described(process.returncode)}")

    def stop(self) -> None:
        """SIGTERM to every group, SIGKILL after `patience` (or at once after a second signal) to whatever is left."""
        with self._lock:
            self._closed = True
        family = _descendants()
        alive = [process for process in self._started if process.poll() is None]
        for process in alive:
            _signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + self._patience
        while any(process.poll() is None for process in alive):
            if self._hurry.wait(0.05) or time.monotonic() > deadline:
                break
        for process in alive:
            if process.poll() is None:
                _signal_group(process.pid, signal.SIGKILL)
                process.wait()
        # What left its group (a server in its own session), or outlived its leader, gets its chance to end well, too.
        left = {*family, *_descendants()} - self._not_ours
        for member in left:
            _quietly(member.terminate)
        _, stubborn = psutil.wait_procs(left, timeout=0.5 if self._hurry.is_set() else 5)
        for member in stubborn:
            _quietly(member.kill)
        psutil.wait_procs(stubborn, timeout=5)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        """The first interrupts; once everything ends, another shortens the wait, and never breaks off the ending.

        One wish may come as two signals: `make` hands SIGTERM on to a demo that its sender has reached, too.
        """
        now = time.monotonic()
        if now - self._asked_to_end_at < SAME_WISH_S:
            return
        self._asked_to_end_at = now
        if self._closed:
            self._hurry.set()
        else:
            raise KeyboardInterrupt


def described(status: int) -> str:
    """An exit status in words."""
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _adopt_orphans(wanted: bool) -> None:
    """Grandchildren whose parent dies become our children instead of init's, so that none is lost sight of."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)


def _descendants() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        # PermissionError: macOS says so of a group of zombies.
        return


def _quietly(act: Callable[[], None]) -> None:
    try:
        act()
    except psutil.NoSuchProcess:
        return
