from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import torch

from app.routing import Loaded, Routing
from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.ranker import Ranker
from model_store.retrieval import Want

if TYPE_CHECKING:
    from tests.app.conftest import Running

HISTORY = ["beta-3", "beta-14", "beta-7"]
users = (f"user-{number}" for number in itertools.count())


def ask(http: httpx.Client, **request: Any) -> dict[str, Any]:
    answer = http.post("/v1/recommend", json=request)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def rows(*item_ids: str) -> Any:
    return np.array([int(item_id.partition("-")[2]) for item_id in item_ids], dtype=np.int64)


def remember(http: httpx.Client, *item_ids: str) -> str:
    user = next(users)
    events = [{"user_id": user, "item_id": item, "timestamp": 1000 + at} for at, item in enumerate(item_ids)]
    assert http.post("/v1/events", json={"events": events}).json()["accepted"] == len(events)
    return user


@pytest.mark.parametrize("history", [["beta-1"], HISTORY, [f"beta-{n % 60}" for n in range(100)]])
@pytest.mark.parametrize("k", [1, 10, 50])
def test_the_answer_is_that_of_retrieve(http: httpx.Client, beta: Bundle, history: list[str], k: int) -> None:
    answer = ask(http, history=history, k=k)
    seen = np.unique(rows(*history))
    expected = beta.retrieve(HistoryBatch.of([rows(*history)]), [Want(k, excluded_rows=seen)])[0]
    assert ids(answer) == [beta.catalog.ids[row] for row in expected.rows]
    assert [item["score"] for item in answer["items"]] == pytest.approx(expected.scores.tolist(), rel=1e-5)
    assert [item["rank"] for item in answer["items"]] == list(range(1, len(expected.rows) + 1))
    assert [item["title"] for item in answer["items"]] == beta.catalog.titles(expected.rows)
    assert answer["exhausted"] == expected.exhausted
    assert answer["version"] == beta.version
    assert (answer["label"], answer["family"], answer["fallback"]) == ("live", "beta", None)


def test_scores_have_seven_significant_digits(http: httpx.Client) -> None:
    for item in ask(http, history=HISTORY, k=50)["items"]:
        assert item["score"] == float(f"{item['score']:.7g}")


def test_the_request_id_tells_label_and_version(http: httpx.Client) -> None:
    answer = http.post("/v1/recommend", json={"history": HISTORY})
    found = answer.json()
    letter, version, _ = found["request_id"].split("-")
    assert (letter, version) == ("l", found["version"].rpartition("-")[2])
    assert answer.headers["x-request-id"] == found["request_id"]
    stages = [part.partition(";")[0].strip() for part in answer.headers["server-timing"].split(",")]
    assert stages == ["queue", "encode", "search", "rank", "total"]
    assert set(found["timings_ms"]) == set(stages)


def test_seen_and_excluded_items_never_come_back(http: httpx.Client) -> None:
    answer = ask(http, history=HISTORY, exclude_ids=["beta-20", "beta-21"], k=1000)
    assert len(ids(answer)) == 60 - 5
    assert not set(ids(answer)) & {*HISTORY, "beta-20", "beta-21"}
    assert answer["exhausted"]
    assert set(HISTORY) <= set(ids(ask(http, history=HISTORY, exclude_seen=False, k=1000)))


def test_filters(http: httpx.Client) -> None:
    assert ids(ask(http, history=HISTORY, allow_ids=[])) == []
    assert set(ids(ask(http, history=HISTORY, allow_ids=["beta-1", "beta-2", "beta-3"]))) == {"beta-1", "beta-2"}
    denied = ask(http, history=HISTORY, allow_ids=["beta-1", "beta-2"], exclude_ids=["beta-1"])
    assert ids(denied) == ["beta-2"]
    third = ids(ask(http, history=HISTORY, categories=["third", "none such"], k=1000))
    assert third
    assert all(row % 3 == 0 for row in rows(*third))
    assert ids(ask(http, history=HISTORY, categories=[])) == []
    both = ids(ask(http, history=HISTORY, categories=["third"], allow_ids=["beta-6", "beta-8"]))
    assert both == ["beta-6"]


def test_ids_that_the_version_does_not_know_are_reported_once(http: httpx.Client) -> None:
    answer = ask(http, history=["nope", *HISTORY, "nope"], exclude_ids=["gone"], allow_ids=["beta-1", "lost"])
    assert answer["unknown_items"] == ["nope", "gone", "lost"]
    assert answer["fallback"] is None


def test_why_there_are_popular_items(http: httpx.Client, beta: Bundle) -> None:
    assert ask(http)["fallback_reason"] == "empty_history"
    assert ask(http, history=[])["fallback_reason"] == "empty_history"
    assert ask(http, user_id=next(users))["fallback_reason"] == "new_user"
    assert ask(http, user_id=next(users), history=[])["fallback_reason"] == "empty_history"
    unknown = ask(http, history=["nope"])
    assert (unknown["fallback"], unknown["fallback_reason"]) == ("popular", "unknown_items")
    popular = ask(http, categories=["third"], exclude_ids=["beta-3"], k=5)
    expected = beta.popular([Want(5, excluded_rows=np.array([3]), categories=("third",))])[0]
    assert ids(popular) == [beta.catalog.ids[row] for row in expected.rows]


@pytest.mark.parametrize("request_", [{}, {"history": []}, {"history": ["nope"]}, {"user_id": "nobody"}])
def test_strict_refuses_instead(http: httpx.Client, request_: dict[str, Any]) -> None:
    refused = http.post("/v1/recommend", json={**request_, "strict": True})
    assert refused.status_code == 422
    assert refused.json()["type"] == "/problems/no-usable-history"


def test_a_stored_history_is_used_and_excluded(http: httpx.Client) -> None:
    user = remember(http, *HISTORY)
    stored, sent = ask(http, user_id=user), ask(http, history=HISTORY)
    assert ids(stored) == ids(sent)
    assert not set(ids(ask(http, user_id=user, k=1000))) & set(HISTORY)


def test_a_history_in_the_body_is_the_history_and_the_stored_one_only_excludes(http: httpx.Client) -> None:
    user = remember(http, "beta-40", "beta-41")
    both = ask(http, user_id=user, history=HISTORY, k=1000)
    assert not set(ids(both)) & {*HISTORY, "beta-40", "beta-41"}
    alone = ask(http, history=HISTORY, exclude_ids=["beta-40", "beta-41"], k=1000)
    assert ids(both) == ids(alone)
    unfiltered = ask(http, user_id=user, history=HISTORY, exclude_seen=False, k=1000)
    assert len(ids(unfiltered)) == 60
    empty = ask(http, user_id=user, history=[], k=1000)
    assert empty["fallback_reason"] == "empty_history"
    assert not set(ids(empty)) & {"beta-40", "beta-41"}


def test_the_previous_version_answers_who_asks_for_it(http: httpx.Client, shared: Running) -> None:
    previous = shared.service.versions.current().previous
    assert previous is not None
    answer = ask(http, history=["alpha-1", "beta-1"], version=previous.version)
    assert (answer["version"], answer["label"]) == (previous.version, "previous")
    assert answer["request_id"].startswith("p-")
    assert all(item.startswith("alpha-") for item in ids(answer))
    assert answer["unknown_items"] == ["beta-1"]


def test_a_version_that_is_not_there(http: httpx.Client) -> None:
    refused = http.post("/v1/recommend", json={"history": HISTORY, "version": "20200101t000000-none-000000000000"})
    assert (refused.status_code, refused.json()["type"]) == (404, "/problems/unknown-version")


class Backwards(Ranker):
    """A stand-in ranker: higher rows first."""

    depth = 30

    def score(self, histories: HistoryBatch, item_rows_BK: torch.Tensor, retriever_BK: torch.Tensor) -> torch.Tensor:
        return item_rows_BK.float()


@pytest.fixture
def ranked(shared: Running) -> Iterator[Bundle]:
    """While it lasts, the live bundle has a ranker."""
    versions = shared.service.versions
    before = versions.current()
    bundle = dataclasses.replace(before.live.bundle, ranker=Backwards())
    versions.serving = Routing(before.generation, Loaded(bundle), before.previous)
    yield bundle
    versions.serving = before


def test_the_ranker_reorders_unless_told_not_to(http: httpx.Client, beta: Bundle, ranked: Bundle) -> None:
    want = Want(5, excluded_rows=rows(*HISTORY))
    expected = ranked.retrieve(HistoryBatch.of([rows(*HISTORY)]), [want])[0]
    answer = ask(http, history=HISTORY, k=5)
    assert ids(answer) == [f"beta-{row}" for row in expected.rows]
    assert [item["score"] for item in answer["items"]] == sorted(expected.rows.tolist(), reverse=True)
    skipped = ask(http, history=HISTORY, k=5, rerank=False)
    plain = beta.retrieve(HistoryBatch.of([rows(*HISTORY)]), [want])[0]
    assert ids(skipped) == [f"beta-{row}" for row in plain.rows] != ids(answer)


def test_options_of_later_issues_are_checked_and_without_effect(http: httpx.Client) -> None:
    assert ids(ask(http, history=HISTORY, explain=True)) == ids(ask(http, history=HISTORY))
    assert http.post("/v1/recommend", json={"timeout_ms": 0}).status_code == 422


def test_a_batch_answers_each_request_by_itself(http: httpx.Client) -> None:
    requests = [
        {"history": HISTORY},
        {"history": ["nope"], "strict": True},
        {"version": "20200101t000000-none-000000000000"},
        {},
    ]
    answer = http.post("/v1/recommend/batch", json={"requests": requests})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [one["status"] for one in results] == [200, 422, 404, 200]
    assert [one["problem"] and one["problem"]["type"] for one in results] == [
        None,
        "/problems/no-usable-history",
        "/problems/unknown-version",
        None,
    ]
    assert ids(results[0]["answer"]) == ids(ask(http, history=HISTORY))
    assert results[3]["answer"]["fallback"] == "popular"


def test_a_batch_of_many_is_few_batches_of_the_thread(http: httpx.Client, shared: Running) -> None:
    def batches() -> float:
        return shared.service.metrics.registry.get_sample_value("naiseki_batch_size_count") or 0.0

    before = batches()
    requests = [{"history": [f"beta-{n % 60}", f"beta-{(n * 7) % 60}"]} for n in range(100)]
    results = http.post("/v1/recommend/batch", json={"requests": requests}).json()["results"]
    assert [one["status"] for one in results] == [200] * 100
    assert batches() - before <= 10


@pytest.mark.parametrize("requests", [[], [{}] * 101])
def test_a_batch_has_1_to_100_requests(http: httpx.Client, requests: list[dict[str, Any]]) -> None:
    assert http.post("/v1/recommend/batch", json={"requests": requests}).status_code == 422
