from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from deploy.demo.processes import Processes
from deploy.demo.supervised import Backoff, Supervised
from tests.waiting import until


def test_what_dies_is_started_again_with_growing_pauses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    processes = Processes()
    log = tmp_path / "log"
    backoff = Backoff(first=0.01, longest=0.02)
    command = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
    supervised = Supervised(processes, command, os.environ, log=log, backoff=backoff)
    supervised.start()
    for life in range(1, 5):
        until(lambda life=life: log.exists() and len(log.read_text().split()) == life)  # type: ignore[misc]
        os.kill(int(log.read_text().split()[-1]), signal.SIGKILL)
    until(lambda: len(log.read_text().split()) == 5)
    assert supervised.deaths_in_a_row == 4
    said = capsys.readouterr().out
    assert [line.split(" again in ")[1].split(" s.")[0] for line in said.splitlines()] == [
        "0.01",
        "0.02",
        "0.02",
        "0.02",
    ]
    processes.stop()
    assert not psutil.pid_exists(int(log.read_text().split()[-1]))
