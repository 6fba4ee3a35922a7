from __future__ import annotations

import httpx
import pytest

from model_store.bundle import Bundle


def test_titles_are_searched_word_by_word_most_popular_first(http: httpx.Client, beta: Bundle) -> None:
    answer = http.get("/v1/items", params={"q": "film BETA 1", "limit": 5}).json()
    assert answer["version"] == beta.version
    assert all("1" in item["title"] for item in answer["items"])
    popularity = [item["popularity"] for item in answer["items"]]
    assert len(popularity) == 5
    assert popularity == sorted(popularity, reverse=True)
    assert http.get("/v1/items", params={"q": "no such film"}).json()["items"] == []
    assert len(http.get("/v1/items").json()["items"]) == 20


def test_one_item(http: httpx.Client) -> None:
    item = {
        "item_id": "beta-12",
        "title": "Film 12 of beta",
        "text": "About 12",
        "categories": ["third"],
        "popularity": 7,
    }
    assert http.get("/v1/items/beta-12").json()["item"] == item
    refused = http.get("/v1/items/alpha-12")
    assert (refused.status_code, refused.json()["type"]) == (404, "/problems/unknown-item")
    assert http.get("/v1/items/lookup").status_code == 404, "an id like any other"


def test_lookup_keeps_the_order_and_names_the_unknown(http: httpx.Client) -> None:
    answer = http.post("/v1/items/lookup", json={"ids": ["beta-5", "a/b", "beta-2", "beta-5"]}).json()
    assert [item["item_id"] for item in answer["items"]] == ["beta-5", "beta-2", "beta-5"]
    assert answer["unknown"] == ["a/b"]


def test_similar(http: httpx.Client) -> None:
    answer = http.post("/v1/items/similar", json={"item_id": "beta-5", "k": 4}).json()
    scores = [item["score"] for item in answer["items"]]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    assert -1 <= scores[-1] <= scores[0] <= 1
    assert "beta-5" not in {item["item_id"] for item in answer["items"]}
    assert http.post("/v1/items/similar", json={"item_id": "nope"}).status_code == 404


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 1001}, {"limit": "x"}, {"q": "x" * 201}])
def test_wrong_parameters(http: httpx.Client, query: dict[str, str]) -> None:
    refused = http.get("/v1/items", params=query)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == f"/{next(iter(query))}"
