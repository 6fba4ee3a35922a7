from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from offline.training import processes
from offline.training.processes import as_main_says, measuring_device, this_process


def test_one_process_is_the_main_one_and_agrees_with_itself() -> None:
    assert this_process().is_main_process
    assert as_main_says((1.5, "a")) == (1.5, "a")


@pytest.mark.parametrize(("trains_on", "measures_on"), [("cuda:1", "cuda:1"), ("cpu", "cpu"), ("mps", "cpu")])
def test_versions_are_measured_where_they_can_be_served(
    trains_on: str, measures_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "this_process", lambda: SimpleNamespace(device=torch.device(trains_on)))
    assert measuring_device() == measures_on


WORKER = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from offline.training.processes import end_with_parent

def work():
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=end_with_parent) as pool:
        pool.submit(work).result()
"""


def test_a_worker_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    with subprocess.Popen([sys.executable, tmp_path / "worker.py"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
        # The pipe ends when the worker, which has it too, has ended.
        ended = threading.Thread(target=parent.stdout.read)
        ended.start()
        ended.join(timeout=20)
        alive = ended.is_alive()
        if alive:
            os.kill(worker, signal.SIGKILL)
        ended.join()
    assert not alive
