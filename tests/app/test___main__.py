"""The process itself: how it starts, what it refuses, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from model_store.preparing import prepare
from tests.ports import free_port

if TYPE_CHECKING:
    from tests.app.conftest import Pair

ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "app", *arguments]


def environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NAISEKI_")}
    return {**kept, "OMP_NUM_THREADS": "1", **{f"NAISEKI_{name}": value for name, value in settings.items()}}


@contextmanager
def process(**settings: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(command(), cwd=ROOT, env=environment(**settings), stderr=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.wait()
        assert started.stderr is not None
        started.stderr.close()


def test_an_open_door_is_refused_in_words() -> None:
    refused = subprocess.run(
        command("serve"),
        cwd=ROOT,
        env=environment(HOST="0.0.0.0", PORT="0"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: NAISEKI_HOST=0.0.0.0")
    assert len(refused.stderr.splitlines()) == 1


def test_sigterm_turns_readiness_off_then_finishes_and_ends_with_0(pair: Pair, tmp_path: Path) -> None:
    port, data = free_port(), tmp_path / "data"
    for version in (pair.alpha, pair.beta):
        prepare(pair.store.folder(version), data / "prepared")
    settings = {"STORE": str(pair.store.root), "DATA": str(data), "PORT": str(port), "GRACE_SECONDS": "1.5"}
    with process(**settings) as started, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        wait_until_ready(http, started)
        user = {"user_id": "u", "item_id": "beta-4", "timestamp": 1}
        assert http.post("/v1/events", json={"events": [user]}).json()["accepted"] == 1
        statuses: list[int] = []
        stop = threading.Event()
        load = threading.Thread(target=keep_asking, args=(http, statuses, stop))
        load.start()
        started.send_signal(signal.SIGTERM)
        while (ready := http.get("/readyz")).status_code == 200:
            time.sleep(0.01)
        assert ready.json()["detail"] == "the service is going away"
        assert http.post("/v1/recommend", json={"history": ["beta-1"]}).status_code == 200, "grace: still answering"
        time.sleep(0.2)
        stop.set()
        load.join()
        assert started.wait(30) == 0
        assert set(statuses) == {200}
        assert started.stderr is not None
        lines = [json.loads(line) for line in started.stderr.read().splitlines()]
    assert {"at", "level", "logger", "message"} <= set(lines[0])
    answered = [line for line in lines if line["message"] == "POST /v1/recommend 200"]
    assert answered[0]["version"] == pair.beta
    assert answered[0]["request_id"].startswith("l-")
    assert not any(line["level"] == "error" for line in lines)


def wait_until_ready(http: httpx.Client, started: subprocess.Popen[Any]) -> None:
    until = time.monotonic() + 120
    while True:
        assert started.poll() is None, "it ended"
        assert time.monotonic() < until
        try:
            if http.get("/readyz").status_code == 200:
                return
        except httpx.ConnectError:
            pass
        time.sleep(0.1)


def keep_asking(http: httpx.Client, statuses: list[int], stop: threading.Event) -> None:
    while not stop.is_set():
        statuses.append(http.post("/v1/recommend", json={"history": ["beta-1", "beta-2"]}).status_code)
        time.sleep(0.02)


@pytest.mark.parametrize("arguments", [["dance"], ["serve", "now"]])
def test_unknown_commands(arguments: list[str]) -> None:
    from app.__main__ import main

    assert main(arguments) == 2
