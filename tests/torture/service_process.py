"""The service as operators run it: `python -m app` in a process of its own, on one core when figures are taken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from model_store.preparing import prepare
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
SERVICE_CORE, LOAD_CORE = 0, 1
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class ServiceProcess:
    """Started, killed and started again on the same port, store and data. Its log is kept in `data/service.log`."""

    def __init__(
        self,
        store: Path,
        data: Path,
        *,
        pinned: bool,
        program: Sequence[str] = ("-m", "app"),
        prepared: Sequence[str] = (),
        **settings: object,
    ) -> None:
        """settings: NAISEKI_* in small letters. pinned: to one core, as figures are taken; else the versions that
        `prepared` names are prepared by this process, which has its imports: the service's child takes seconds."""
        data.mkdir(parents=True, exist_ok=True)
        for version in () if pinned else prepared:
            prepare(store / version, data / "prepared")
        self.data, self.log, self.port = data, data / "service.log", free_port()
        told = {"store": store, "data": data, "port": self.port, "threads": 1, "poll_seconds": 0.2, **settings}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("NAISEKI_")},
            **ONE_THREAD,
            **{f"NAISEKI_{name.upper()}": str(value) for name, value in told.items()},
            "PYTHONPATH": str(ROOT),
        }
        self.command = [*(["taskset", "-c", str(SERVICE_CORE)] if pinned else []), sys.executable, *program]
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ServiceProcess:
        try:
            return self.start().ready()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> ServiceProcess:
        assert self.process is None or self.process.poll() is not None, "it runs already"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=ROOT, env=self.environment, stderr=log)
        return self

    def ready(self, seconds: float = 120.0) -> ServiceProcess:
        assert self.process is not None
        until = time.monotonic() + seconds
        while not self.is_ready():
            assert self.process.poll() is None, f"the service ended: {self.log_text()[-3000:]}"
            assert time.monotonic() < until, f"not ready after {seconds} s: {self.log_text()[-3000:]}"
            time.sleep(0.05)
        return self

    def is_ready(self) -> bool:
        try:
            return self.http.get("/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def resident(self, *versions: str) -> None:
        """Waits until these versions are in memory."""
        until = time.monotonic() + 120
        while True:
            states = {one["version"]: one["state"] for one in self.http.get("/v1/models").json()["models"]}
            if all(states[version] == "READY" for version in versions):
                return
            assert time.monotonic() < until, states
            time.sleep(0.05)

    def activate(self, version: str, *, wait: int = 120) -> httpx.Response:
        return self.http.put(f"/v1/labels/live?wait={wait}", json={"version": version})

    def recommend(self, **body: Any) -> httpx.Response:
        return self.http.post("/v1/recommend", json=body)

    def routes(self) -> set[tuple[str, str]]:
        """(path, method) of everything that the service describes."""
        described = self.http.get("/openapi.json").json()["paths"]
        return {(path, method) for path, methods in described.items() for method in methods}

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self, seconds: float = 60.0) -> int:
        """Its exit status."""
        assert self.process is not None
        return self.process.wait(seconds)

    def resident_bytes(self) -> int:
        assert self.process is not None
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def logged(self, word: str) -> list[dict[str, Any]]:
        """Log lines that hold this word, as JSON."""
        return [json.loads(line) for line in self.log_text().splitlines() if word in line and line.startswith("{")]

    def stop(self) -> None:
        """Without grace, so that an embedded Redis is stopped too; SIGKILL when that does not help."""
        self.http.close()
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
