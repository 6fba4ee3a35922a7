"""The whole story of `make demo`, with the project's own commands replaced by quick ones (fake_project)."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.ports import free_port
from tests.waiting import until

REPOSITORY = Path(__file__).parents[3]
FAKES = Path(__file__).parent / "fake_project"


class Run:
    """One started demo in a folder of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.output = folder / f"output-{time.monotonic_ns()}"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy.demo"],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(REPOSITORY),
                    "NAISEKI_STORE": str(folder / "store"),
                    "NAISEKI_DATA": str(folder / "data"),
                    "NAISEKI_PORT": str(free_port()),
                    **environment,
                },
            )

    def said(self) -> str:
        return self.output.read_text()

    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def pids(self) -> list[int]:
        """Of each service and its histories server, oldest first."""
        file = self.folder / "pids"
        return [int(pid) for pid in file.read_text().split()] if file.exists() else []

    def wait_for(self, text: str) -> None:
        until(lambda: text in self.said() or self.process.poll() is not None)
        assert text in self.said(), self.said()

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    project = tmp_path / "project"
    shutil.copytree(FAKES, project, ignore=shutil.ignore_patterns("__pycache__"))
    yield project
    # A failed test must not leave its programs behind either.
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] == str(project):
            process.kill()


def test_first_run_serves_swaps_compares_and_a_second_only_serves(folder: Path) -> None:
    first = Run(folder)
    first.wait_for("Serving until Ctrl-C")
    said = first.said()
    assert '{"user_id": "u7", "k": 5}' in said
    assert "Film for u7\n  by fake, version 2026-demo-sasrec" in said
    assert "Film for u7\n  by fake, version 2026-demo-e4srec" in said
    assert first.end(signal.SIGINT) == 0
    calls = first.calls()
    assert [call.rsplit(" nice=", 1)[0] for call in calls] == [
        "offline data ml-100k",
        "offline run offline/runs/demo-sasrec.toml",
        "app import-events",
        "offline run offline/runs/demo-e4srec.toml",
        "offline compare-versions 2026-demo-sasrec",
    ]
    assert calls[1].endswith("nice=0")
    assert calls[3].endswith("nice=19")

    second = Run(folder)
    second.wait_for("Serving until Ctrl-C")
    assert "version 2026-demo-e4srec" in second.said()
    assert second.end(signal.SIGTERM) == 0
    assert second.calls()[len(calls) :] == [calls[-1]]
    assert not any(psutil.pid_exists(pid) for pid in second.pids())


def test_a_killed_service_comes_back_and_ctrl_c_in_a_training_leaves_nothing(folder: Path) -> None:
    run = Run(folder, FAKE_TRAINING_SECONDS="0")
    run.wait_for("Serving until Ctrl-C")
    service, histories = run.pids()
    os.kill(service, signal.SIGKILL)
    until(lambda: len(run.pids()) == 4)
    assert "The service ended (signal SIGKILL)" in run.said()
    assert psutil.pid_exists(histories)
    run.end(signal.SIGINT)
    assert not any(psutil.pid_exists(pid) for pid in run.pids())

    shutil.rmtree(folder / "store" / "2026-demo-e4srec")
    run = Run(folder, FAKE_TRAINING_SECONDS="600")
    run.wait_for("[5/6]")
    until(lambda: len(psutil.Process(run.process.pid).children()) == 2)
    family = psutil.Process(run.process.pid).children(recursive=True)
    assert len(family) >= 3
    assert run.end(signal.SIGINT) == 0
    assert not [member for member in family if member.is_running()]


def test_a_published_version_that_never_became_live_becomes_live(folder: Path) -> None:
    run = Run(folder)
    run.wait_for("Serving until Ctrl-C")
    run.end(signal.SIGINT)
    (folder / "store" / "labels.json").write_text('{"live": "2026-demo-sasrec", "previous": null}')
    run = Run(folder)
    run.wait_for("Serving until Ctrl-C")
    run.end(signal.SIGINT)
    assert "model_store activate 2026-demo-e4srec" in run.calls()


def test_a_taken_port_is_refused_before_anything_is_trained(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = Run(folder, NAISEKI_PORT=str(port))
        assert run.process.wait(timeout=30) == 1
    assert f"port {port} is taken" in run.said()
    assert f"NAISEKI_PORT={port + 1}" in run.said()
    assert run.calls() == []


def test_a_port_that_is_none_is_refused(folder: Path) -> None:
    run = Run(folder, NAISEKI_PORT="eighty")
    assert run.process.wait(timeout=30) == 1
    assert "NAISEKI_PORT=eighty is no port" in run.said()


def test_a_second_demo_in_the_same_folder_is_refused(folder: Path) -> None:
    first = Run(folder)
    first.wait_for("Serving until Ctrl-C")
    second = Run(folder)
    assert second.process.wait(timeout=30) == 1
    assert "another `make demo` runs in this folder" in second.said()
    assert first.end(signal.SIGTERM) == 0


def test_a_service_that_cannot_start_is_reported_with_its_log(folder: Path) -> None:
    (folder / "app" / "__main__.py").write_text("import sys\nif sys.argv[1:] == []:\n    sys.exit('no store here')\n")
    run = Run(folder)
    assert run.process.wait(timeout=40) == 1
    assert "did not become ready" in run.said()
    assert "no store here" in run.said()
