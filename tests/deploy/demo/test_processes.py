from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.demo.processes import ENDING, SAME_WISH_S, Processes, StepFailed, described
from tests.waiting import until

SLEEP = "import time; time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); {SLEEP}"


@pytest.fixture
def processes() -> Iterator[Processes]:
    before = {number: signal.getsignal(number) for number in ENDING}
    with Processes(patience=5) as opened:
        yield opened
    for number, handler in before.items():
        signal.signal(number, handler)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_run_names_the_program_that_failed(processes: Processes) -> None:
    processes.run(python("pass"), os.environ)
    with pytest.raises(StepFailed, match=r"import sys.*exit status 3"):
        processes.run(python("import sys; sys.exit(3)"), os.environ)


def test_statuses_in_words() -> None:
    assert described(-9) == "signal SIGKILL"
    assert described(2) == "exit status 2"


def test_stop_ends_what_left_its_group_and_what_is_deaf(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    processes = Processes(patience=0.5)
    grandchild = f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True)"
    code = f"import os, subprocess, sys; child = {grandchild}; print(os.getpid(), child.pid, flush=True); {DEAF}"
    with pids.open("wb") as output:
        processes.start(python(code), os.environ, output=output)
    until(lambda: "deaf" in pids.read_text())
    processes.stop()
    deaf, separate = (int(pid) for pid in pids.read_text().split()[:2])
    assert not psutil.pid_exists(deaf)
    assert not psutil.pid_exists(separate)


def test_nothing_starts_once_everything_ends(processes: Processes) -> None:
    processes.stop()
    assert processes.start(python(SLEEP), os.environ) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_not_even_orphans(tmp_path: Path, number: signal.Signals) -> None:
    """The child dies and leaves a grandchild in a session of its own before the signal comes."""
    pids = tmp_path / "pids"
    orphaning = (
        "import pathlib, subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True); "
        f"pathlib.Path({str(pids)!r}).write_text(str(child.pid))"
    )
    program = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # under nohup it is ignored, and stays so
        "from deploy.demo.processes import Processes\n"
        "with Processes() as processes:\n"
        f"    processes.run([sys.executable, '-c', {orphaning!r}], os.environ)\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
    )
    repository = Path(__file__).parents[3]
    running = subprocess.Popen(python(program), cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    orphan = int(pids.read_text())
    assert psutil.pid_exists(orphan)
    running.send_signal(number)
    try:
        running.communicate(timeout=20)
    finally:
        running.kill()
    assert not psutil.pid_exists(orphan)


def test_a_second_signal_shortens_the_wait(tmp_path: Path) -> None:
    program = (
        "import os, sys, time\n"
        "from deploy.demo.processes import Processes\n"
        "with Processes(patience=600) as processes:\n"
        f"    processes.start([sys.executable, '-c', {DEAF!r}], os.environ)\n"
        "    time.sleep(600)\n"
    )
    repository = Path(__file__).parents[3]
    running = subprocess.Popen(python(program), cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"deaf\n"
    (child,) = psutil.Process(running.pid).children()
    running.send_signal(signal.SIGTERM)
    running.send_signal(signal.SIGTERM)
    time.sleep(SAME_WISH_S + 0.5)
    assert running.poll() is None, "two signals at once are one wish"
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=20)
    assert not child.is_running()
