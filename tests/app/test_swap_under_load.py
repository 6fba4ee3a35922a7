"""The promise of the service: the label moves, and nobody notices."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch

from app.routing import Routing
from app.settings import Settings
from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.ranker import Ranker
from tests.torture.answers import is_mixed

if TYPE_CHECKING:
    from tests.app.conftest import Pair, Running

MOVES = 20
CLIENTS = 6
pytestmark = pytest.mark.usefixtures("in_process")


class Slow(Ranker):
    """A ranker that changes nothing and takes its time, so that requests are in flight when a version is published."""

    depth = 1

    def score(self, histories: HistoryBatch, item_rows_BK: torch.Tensor, retriever_BK: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return -torch.arange(item_rows_BK.shape[1]).float().expand(item_rows_BK.shape)


@pytest.fixture(
    params=[
        "two SASRec",
        pytest.param("SASRec and SmolLM2", marks=[pytest.mark.slow, pytest.mark.alone]),
    ]
)
def moving(request: pytest.FixtureRequest) -> Pair:
    """Both versions have had the label live, so that both are in memory; beta has it."""
    if request.param == "two SASRec":
        pair: Pair = request.getfixturevalue("pair")
        return pair
    pair = request.getfixturevalue("real_pair")
    pair.store.activate(pair.beta, by="test")
    return pair


@pytest.fixture
def slow_server(
    moving: Pair, serve: Callable[[Settings], AbstractContextManager[Running]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Running]:
    original = Bundle.open
    monkeypatch.setattr(
        Bundle, "open", lambda folder, device: dataclasses.replace(original(folder, device), ranker=Slow())
    )
    settings = Settings(store=moving.store.root, data=moving.store.root / "data", redis_url="none", poll_seconds=0.05)
    with serve(settings) as server:
        yield server.ready()


class Load:
    """Some clients, each asking again a moment after its answer: far below what the service can do."""

    def __init__(self, url: str, families: Sequence[str]) -> None:
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.errors: list[Exception] = []
        self._url, self._families, self._stop = url, families, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        history = [f"{family}-{number + row}" for row in range(5) for family in self._families]
        try:
            with httpx.Client(base_url=self._url, timeout=30) as http:
                while not self._stop.is_set():
                    answer = http.post("/v1/recommend", json={"history": history, "user_id": f"u{number}"})
                    self.answers.append((answer.status_code, answer.json()))
                    time.sleep(0.004 * (number // 2))  # not all at once: some are in flight at any time
        except httpx.HTTPError as error:
            self.errors.append(error)


def test_twenty_moves_of_the_label_under_load(
    slow_server: Running, moving: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = slow_server.service.versions
    families = [version.split("-")[1] for version in (moving.alpha, moving.beta)]
    in_flight: list[int] = []
    publish = versions._publish

    def watched(routing: Routing) -> None:
        if versions.serving is not None and versions.serving.live is not routing.live:
            in_flight.append(versions.serving.live.in_flight)
        publish(routing)

    monkeypatch.setattr(versions, "_publish", watched)
    with Load(slow_server.url, families) as load:
        for move in range(MOVES):
            time.sleep(0.03)
            wanted = (moving.alpha, moving.beta)[move % 2]
            moved = slow_server.http.put("/v1/labels/live?wait=30", json={"version": wanted})
            assert moved.status_code == 200, moved.text
            assert moved.json()["serving"]["live"] == wanted
    assert not load.errors
    assert {status for status, _ in load.answers} == {200}
    assert len(in_flight) == MOVES
    assert min(in_flight) > 0, "requests must be in flight across every publish, or the test proves nothing"
    assert [reason for _, answer in load.answers if (reason := is_mixed(answer, families))] == []
    served = {answer["version"].split("-")[1] for _, answer in load.answers}
    assert served == set(families)
