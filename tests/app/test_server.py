"""Real processes, real signals, real hangs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from app.server import LOST_STATUS
from deploy.demo.processes import Processes
from deploy.demo.supervised import Backoff, Supervised
from model_store.preparing import prepare
from tests.app.conftest import make_pair
from tests.app.test___main__ import ROOT, environment, wait_until_ready
from tests.ports import free_port
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.app.conftest import Pair

UNRULY = [sys.executable, str(ROOT / "tests" / "app" / "unruly_service.py")]
HANG, STAND_STILL, POISON, EXIT_THE_THREAD, SLOW, SLOWEST = (f"beta-{row}" for row in range(50, 56))


@dataclass
class Unruly:
    url: str
    http: httpx.Client
    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, *history: str) -> httpx.Response:
        return self.http.post("/v1/recommend", json={"history": list(history)})

    def ended(self, seconds: float) -> list[dict[str, Any]]:
        """Its log, once it has exited."""
        assert self.process.wait(seconds) is not None
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("unruly")
    pair = make_pair(folder / "store")
    for version in (pair.alpha, pair.beta):
        prepare(pair.store.folder(version), folder / "data" / "prepared")
    return pair


def given(pair: Pair, port: int, **settings: str) -> dict[str, str]:
    root = pair.store.root
    paths = {"STORE": str(root), "DATA": str(root.parent / "data"), "PORT": str(port), "REDIS_URL": "none"}
    still = {"STILL_SECONDS": settings.pop("STILL_SECONDS", "30")}
    return environment(**paths, **settings) | {"PYTHONPATH": str(ROOT)} | still


@contextmanager
def unruly(pair: Pair, **settings: str) -> Iterator[Unruly]:
    """Its log goes to a file: a pipe that nobody reads is full after some 300 requests, and then the service waits."""
    port = free_port()
    url, log = f"http://127.0.0.1:{port}", pair.store.root.parent / f"{port}.log"
    with log.open("wb") as written:
        process = subprocess.Popen(UNRULY, cwd=ROOT, env=given(pair, port, **settings), stderr=written)
    try:
        with httpx.Client(base_url=url, timeout=30) as http:
            wait_until_ready(http, process)
            yield Unruly(url, http, process, log)
    finally:
        process.kill()
        process.wait()


@dataclass
class Loop:
    """Clients that ask again and again on connections that they keep; each ends when nobody accepts any more."""

    statuses: list[int]
    lost: list[str]

    def ask(self, url: str) -> None:
        while True:
            try:
                with httpx.Client(base_url=url, timeout=30) as http:
                    while True:
                        history = [f"beta-{len(self.statuses) % 40}", "beta-2"]
                        self.statuses.append(http.post("/v1/recommend", json={"history": history}).status_code)
            except httpx.ConnectError:
                return
            except httpx.HTTPError as error:
                self.lost.append(repr(error))
                return


def test_no_request_is_lost_when_the_service_stops_under_load(prepared: Pair) -> None:
    with unruly(prepared, GRACE_SECONDS="0.3") as service, ThreadPoolExecutor(6) as pool:
        load = Loop([], [])
        clients = [pool.submit(load.ask, service.url) for _ in range(6)]
        until(lambda: len(load.statuses) >= 50, seconds=20)
        service.process.send_signal(signal.SIGTERM)
        for client in clients:
            client.result(90)
        log = service.ended(15)
        assert service.process.returncode == 0
    assert load.lost == []
    assert set(load.statuses) == {200}
    assert [line for line in log if line["level"] not in ("info", "debug")] == []


def test_a_second_signal_hurries_and_what_is_in_flight_is_finished(prepared: Pair) -> None:
    with unruly(prepared, GRACE_SECONDS="60", HANG_SECONDS="30") as service, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(service.ask, SLOW)
        time.sleep(0.3)
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert httpx.get(f"{service.url}/readyz").status_code == 503
        assert httpx.get(f"{service.url}/livez").headers["connection"] == "close"
        asked = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert slow.result(30).status_code == 200
        service.ended(15)
        assert service.process.returncode == 0
        assert time.monotonic() - asked < 10


def test_a_third_signal_waits_for_nobody(prepared: Pair) -> None:
    with unruly(prepared, GRACE_SECONDS="60", HANG_SECONDS="120") as service, ThreadPoolExecutor(1) as pool:
        slowest = pool.submit(service.ask, SLOWEST)
        time.sleep(0.3)
        asked = time.monotonic()
        for _ in range(3):
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        told = slowest.result(30)
        assert (told.status_code, told.json()["detail"]) == (503, "the service is going away")
        service.ended(20)
        assert time.monotonic() - asked < 5


@dataclass
class Kept:
    """The unruly service under the supervisor of `make demo`."""

    http: httpx.Client
    supervised: Supervised

    def ask(self, *history: str, **more: Any) -> httpx.Response:
        return self.http.post("/v1/recommend", json={"history": list(history), **more})

    def ready(self) -> bool:
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def wait_until(self, ready: bool, *, seconds: float) -> float:
        began = time.monotonic()
        while self.ready() is not ready:
            assert time.monotonic() - began < seconds, self.supervised.log.read_text()
            time.sleep(0.02)
        return time.monotonic() - began


@pytest.fixture(scope="module")
def kept(prepared: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    port, processes = free_port(), Processes(patience=10)
    log = tmp_path_factory.mktemp("log") / "service.log"
    supervised = Supervised(
        processes,
        UNRULY,
        given(prepared, port, GRACE_SECONDS="0", STILL_SECONDS="5"),
        log=log,
        backoff=Backoff(first=0.1),
    )
    supervised.start()
    limits = httpx.Limits(max_keepalive_connections=0)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, limits=limits) as http:
            made = Kept(http, supervised)
            made.wait_until(True, seconds=60)
            yield made
    finally:
        processes.stop()


def test_a_poisoned_request_fails_alone_and_says_nothing_of_our_code(kept: Kept) -> None:
    histories = [["beta-1"], ["beta-2"], [POISON], ["beta-3"]]
    requests = {"requests": [{"history": history} for history in histories]}
    results = kept.http.post("/v1/recommend/batch", json=requests).json()["results"]
    assert [one["status"] for one in results] == [200, 200, 500, 200]
    alone = kept.ask(POISON)
    assert (alone.status_code, alone.headers["content-type"]) == (500, "application/problem+json")
    for problem in (alone.json(), results[2]["problem"]):
        assert (problem["type"], problem["title"]) == ("/problems/internal", "internal")
        assert "poison" not in json.dumps(problem)
    assert kept.ready()


def test_a_thread_that_dies_is_started_again_and_nobody_waits_for_an_answer(kept: Kept) -> None:
    with ThreadPoolExecutor(6) as pool:
        began = time.monotonic()
        asked = [pool.submit(kept.ask, f"beta-{n}", EXIT_THE_THREAD if n == 3 else "beta-1") for n in range(6)]
        statuses = [one.result().status_code for one in asked]
        assert statuses[3] == 503
        assert set(statuses) <= {200, 503}
        assert time.monotonic() - began < 5
    kept.wait_until(True, seconds=3)
    assert kept.ask("beta-1").status_code == 200
    assert kept.supervised.deaths_in_a_row == 0


def test_a_hang_ends_the_process_and_its_supervisor_brings_it_back(kept: Kept, capsys: Any) -> None:
    kept.ask("beta-1")  # estimates are known
    with ThreadPoolExecutor(6) as pool:
        began = time.monotonic()
        asked: list[Future[httpx.Response]] = [pool.submit(kept.ask, HANG, timeout_ms=60_000)]
        time.sleep(0.3)
        asked += [pool.submit(kept.ask, f"beta-{n}", timeout_ms=60_000) for n in range(5)]
        kept.wait_until(False, seconds=10)
        off = time.monotonic() - began
        answers = [one.result() for one in asked]
        answered = time.monotonic() - began
    assert [one.status_code for one in answers] == [503] * 6
    assert all("hangs" in one.json()["detail"] and int(one.headers["retry-after"]) >= 1 for one in answers)
    assert off < 4
    assert answered < 5, "a second for the hang to be one, and a second for everything that waits; the machine is busy"
    kept.wait_until(True, seconds=30)
    assert kept.ask("beta-1").status_code == 200
    assert kept.supervised.deaths_in_a_row == 1
    assert f"exit status {LOST_STATUS}" in capsys.readouterr().out
    (said,) = [line for line in kept.supervised.log.read_text().splitlines() if '"critical"' in line]
    assert "unruly_service.py" in json.loads(said)["stack"], "the log tells where the thread hangs"


def test_an_interpreter_that_stands_still_ends_the_process(kept: Kept) -> None:
    """Native code that never lets go of the interpreter's lock stops the watch, too."""
    deaths = kept.supervised.deaths_in_a_row
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(kept.ask, STAND_STILL)
        until(lambda: kept.supervised.deaths_in_a_row != deaths, seconds=60)
        with pytest.raises(httpx.HTTPError):
            asked.result(30)
    assert "hang_with_the_interpreter" in kept.supervised.log.read_text()
