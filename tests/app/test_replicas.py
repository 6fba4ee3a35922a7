"""Two real processes on one store and one Redis. The labels are polled so rarely that only a hint can be heard."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from model_store.preparing import prepare
from tests.app.test___main__ import process, wait_until_ready
from tests.ports import free_port

if TYPE_CHECKING:
    from tests.app.conftest import Pair

WITHIN_SECONDS = 1.0


def until(http: httpx.Client, path: str, text: str, seconds: float) -> float:
    """Seconds until the answer holds the text."""
    started = time.monotonic()
    while text not in http.get(path).text:
        assert time.monotonic() - started < seconds, f"{text} is not in {path} after {seconds} s"
        time.sleep(0.005)
    return time.monotonic() - started


@pytest.mark.slow
def test_two_replicas_hear_within_a_second_and_swap_when_their_own_load_is_done(pair: Pair, tmp_path: Path) -> None:
    data, ports = tmp_path / "data", [free_port(), free_port()]
    for version in (pair.alpha, pair.beta):
        prepare(pair.store.folder(version), data / "prepared")
    common = {"STORE": str(pair.store.root), "DATA": str(data), "POLL_SECONDS": "600", "GRACE_SECONDS": "0"}
    with ExitStack() as stack:
        started = [stack.enter_context(process(PORT=str(port), **common)) for port in ports]
        clients = [stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)) for port in ports]
        for http, one in zip(clients, started, strict=True):
            wait_until_ready(http, one)
        first, second = clients
        for http in clients:
            until(http, "/v1/models", f'"previous":"{pair.alpha}"', 60)
        moved = first.put("/v1/labels/live", params={"wait": 60}, json={"version": pair.alpha})
        assert moved.status_code == 200
        until(second, "/metrics", 'naiseki_labels_generation{view="wanted"} 3.0', WITHIN_SECONDS)
        until(second, "/readyz", pair.alpha, WITHIN_SECONDS)
        # The other way round, by the other process, to one that the first has unloaded meanwhile.
        assert first.delete("/v1/labels/previous", params={"wait": 60}).status_code == 200
        until(second, "/metrics", 'naiseki_labels_generation{view="wanted"} 4.0', WITHIN_SECONDS)
        assert second.put("/v1/labels/live", params={"wait": 60}, json={"version": pair.beta}).status_code == 200
        until(first, "/metrics", 'naiseki_labels_generation{view="wanted"} 5.0', WITHIN_SECONDS)
        until(first, "/readyz", pair.beta, 60)
        for one in started:
            one.terminate()
        assert [one.wait(30) for one in started] == [0, 0]
