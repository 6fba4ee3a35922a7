"""A real service, told to log everything and given every reason to: what it logs must be fit for a log collector, and
what it writes must fit into a container whose root file system is read-only."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from model_store.store import ModelStore
from tests.app.test___main__ import wait_until_ready
from tests.ports import free_port
from tests.redis_proxy import RedisProxy
from tests.redis_server import redis_server

ROOT = Path(__file__).parents[2]
KEY, ADMIN, METRICS, WRONG = "klient-geheim", "admin-geheim", "metrik-geheim", "falsch-geraten"
PASSWORD, USER, ITEM = "redis-geheim", "nutzer-7349", "gegenstand-5512"
SECRETS = {
    "client key": KEY,
    "digest of it": hashlib.sha256(KEY.encode()).hexdigest(),
    "admin key": ADMIN,
    "key of the metrics": METRICS,
    "a wrong key, perhaps of another service": WRONG,
    "password of Redis": PASSWORD,
    "user id": USER,
}


LOOK = """
import os, runpy, sys
allowed = (*sys.argv[1].split(":"), "/dev/")
writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
def look(event, arguments):
    if event == "open":
        touches = isinstance(arguments[0], (str, bytes)) and bool((arguments[2] or 0) & writing)
    else:
        touches = event in ("os.mkdir", "os.rename", "os.remove", "os.symlink", "os.link", "os.truncate", "os.chmod")
    if touches and not os.path.abspath(os.fsdecode(arguments[0])).startswith(allowed):
        os.write(2, f"WRITES {event} {arguments[0]}\\n".encode())
sys.addaudithook(look)
sys.argv = ["app"]
runpy.run_module("app", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def proxy() -> Iterator[RedisProxy]:
    """In front of a Redis that wants a password."""
    with redis_server() as server, Redis(unix_socket_path=str(server.socket)) as operator:
        operator.config_set("requirepass", PASSWORD)
        with RedisProxy(server.socket) as running:
            yield running


@pytest.fixture(scope="module")
def told(proxy: RedisProxy, published: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Everything that the service said on its two outputs."""
    return run(proxy, published, tmp_path_factory.mktemp("told"))


def run(proxy: RedisProxy, published: Callable[..., str], folder: Path) -> str:
    port, data, log = free_port(), folder / "data", folder / "log"
    store = ModelStore(folder / "store")
    store.activate(published(store, "alpha"), by="test")
    settings = {
        "STORE": str(store.root),
        "DATA": str(data),
        "PORT": str(port),
        "LOG_LEVEL": "debug",
        "API_KEYS": f"other,sha256:{SECRETS['digest of it']}",
        "ADMIN_KEYS": ADMIN,
        "METRICS_KEY": METRICS,
        "REDIS_URL": proxy.url.replace("redis://", f"redis://:{PASSWORD}@"),
        "CLIENT_SECONDS": "0.5",
        "GRACE_SECONDS": "0",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NAISEKI_")}
    (folder / "tmp").mkdir()
    kept |= {"TMPDIR": str(folder / "tmp"), "HOME": str(folder / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}  # as the image
    environment = {**kept, "OMP_NUM_THREADS": "1", **{f"NAISEKI_{name}": value for name, value in settings.items()}}
    command = [sys.executable, "-X", "dev", "-W", "ignore", "-c", LOOK, f"{data}:{store.root}:{folder / 'tmp'}"]
    with log.open("wb") as written:
        started = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=written, stderr=subprocess.STDOUT)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
                wait_until_ready(http, started)
                provoke(http, proxy)
            provoke_by_raw_bytes(port)
            started.terminate()
            assert started.wait(30) == 0
        finally:
            if started.poll() is None:
                started.kill()
                started.wait()
    return log.read_text()


def test_nothing_secret_is_ever_logged(told: str) -> None:
    assert '"level": "debug"' in told
    assert "Redis" in told, "an outage was told of"
    assert [name for name, secret in SECRETS.items() if secret in told] == []


def test_it_writes_to_its_folders_and_to_tmp_alone(told: str) -> None:
    assert [line for line in told.splitlines() if line.startswith("WRITES")] == []


def provoke(http: httpx.Client, proxy: RedisProxy) -> None:
    """Every route that hears of a user or a key, well and badly asked, with Redis well, garbled and gone."""
    client, admin = ({"authorization": f"Bearer {key}"} for key in (KEY, ADMIN))
    event = {"user_id": USER, "item_id": ITEM, "event_id": USER, "request_id": USER}
    seen: set[int] = set()
    for trouble in ("none", "garbage", "gone"):
        proxy.garbage = b":5\r\n" if trouble == "garbage" else b""
        if trouble == "gone":
            proxy.refuse()
        for headers in (client, admin, {"authorization": f"Bearer {WRONG}"}, {"authorization": f"Basic {WRONG}"}):
            answers = [
                http.post("/v1/events", json={"events": [event]}, headers=headers),
                http.post("/v1/recommend", json={"user_id": USER}, headers=headers),
                http.post("/v1/recommend/batch", json={"requests": [{"user_id": USER}]}, headers=headers),
                http.post("/v1/recommend", json={"user_id": USER, "k": USER, USER: 1}, headers=headers),
                http.post("/v1/recommend", content=f'{{"user_id": "{USER}', headers=headers),
                http.get("/v1/history", params={"user_id": USER, "limit": USER}, headers=headers),
                http.get("/v1/history", params={"user_id": USER}, headers=headers),
                http.get(f"/v1/users/{USER}/history", headers=headers),
                http.delete(f"/v1/users/{USER}/history", headers=headers),
                http.get(f"/v1/nothing/{USER}", headers=headers),
                http.get("/metrics", headers=headers),
                http.get("/v1/models", params={"key": KEY}, headers=headers),
            ]
            seen |= {answer.status_code for answer in answers}
    assert {200, 401, 403, 404, 415, 422, 503} <= seen
    assert 500 not in seen


def provoke_by_raw_bytes(port: int) -> None:
    heads = f"GET /v1/users/{USER}/history HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\nHost: x"
    for raw in (f"{heads}", f"{heads}\r\n\x00bad: {USER}\r\n\r\n", f"{USER} {KEY}\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(raw.encode())
            while connection.recv(1 << 16):
                pass
