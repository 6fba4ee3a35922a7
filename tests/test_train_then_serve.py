"""The whole path: a run file becomes a version, the service serves it, and answers what evaluation measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.settings import Settings
from model_store.bundle import Bundle
from model_store.ranker import InterpolatedRanker
from model_store.retrieval import Want
from model_store.store import ModelStore
from offline import datasets
from offline.families import llamarec
from offline.pipeline import run
from offline.ranking.reranking import RerankingProblem
from offline.run_config import RunConfig
from offline.splits.protocols import split
from offline.splits.sequences import Queries
from offline.workspace import Workspace
from tests.app.conftest import running, without_child

WriteRun = Callable[..., Path]
HISTORIES = 20


def _check(http: httpx.Client, bundle: Bundle, queries: Queries) -> None:
    """Over HTTP as by `retrieve`: the same ids, and scores equal to the 7 significant digits that are sent."""
    ids = bundle.catalog.ids
    for b in range(0, 10 * HISTORIES, 10):
        rows = queries.histories.history(b).tolist()
        answer = http.post("/v1/recommend", json={"history": [ids[row] for row in rows], "k": 10}).json()
        want = Want(10, excluded_rows=np.unique(rows).astype(np.int64))
        (expected,) = bundle.retrieve(queries.histories.select([b]), [want])
        assert (answer["version"], answer["fallback"]) == (bundle.version, None)
        assert [item["item_id"] for item in answer["items"]] == [ids[row] for row in expected.rows]
        assert len(expected.rows) == 10
        scores = [item["score"] for item in answer["items"]]
        # Half a unit of the seventh digit; the vector itself is the same, one history per batch on both sides.
        assert scores == pytest.approx(expected.scores.tolist(), rel=5e-7, abs=0)
        assert not {item["item_id"] for item in answer["items"]} & {ids[row] for row in rows}


def test_answers_over_http_are_those_of_retrieve_before_and_after_a_swap(write_run: WriteRun, tmp_path: Path) -> None:
    store, workspace = ModelStore(tmp_path / "store"), Workspace(tmp_path / "cache")
    config = RunConfig.load(write_run("start", "sasrec"))
    queries = split(datasets.load(config.data), config.protocol).test
    sasrec = run(config, store=store, workspace=workspace)
    store.activate(sasrec, by="test")
    settings = Settings(store=store.root, data=tmp_path / "data", redis_url="none", poll_seconds=0.05)
    with without_child(), running(settings) as service:
        service.ready()
        _check(service.http, store.open(sasrec), queries)
        child = RunConfig.load(write_run("lm", "e4srec", items_from='"run:start"', history_input='"id"'))
        e4srec = run(child, store=store, workspace=workspace)
        moved = service.http.put("/v1/labels/live?wait=30", json={"version": e4srec})
        assert moved.status_code == 200, moved.text
        assert moved.json()["serving"]["live"] == e4srec
        _check(service.http, store.open(e4srec), queries)


def test_a_ranker_is_served_and_left_out_where_a_request_says_so(
    write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(problem: RerankingProblem, ranker: InterpolatedRanker) -> dict[str, object]:
        """What three epochs on random weights are worth is not the question here."""
        ranker.config = ranker.config.model_copy(update={"weight": 0.5})
        return {"weight": 0.5, "queries": len(problem.found)}

    monkeypatch.setattr(llamarec, "choose_weight", half)
    store, workspace = ModelStore(tmp_path / "store"), Workspace(tmp_path / "cache")
    config = RunConfig.load(write_run("start", "sasrec"))
    queries = split(datasets.load(config.data), config.protocol).test
    sasrec = run(config, store=store, workspace=workspace)
    child = RunConfig.load(write_run("ranked", "llamarec", retriever='"run:start"'))
    ranked = run(child, store=store, workspace=workspace)
    assert store.manifest(ranked).provenance.parents == {"retriever": sasrec}
    store.activate(ranked, by="test")
    settings = Settings(store=store.root, data=tmp_path / "data", redis_url="none", poll_seconds=0.05)
    with running(settings) as service:  # with the child process that prepares what is loaded
        service.ready()
        bundle, retriever = store.open(ranked), store.open(sasrec)
        _check(service.http, bundle, queries)
        reordered = 0
        for b in range(0, 10 * HISTORIES, 10):
            rows = queries.histories.history(b).tolist()
            history = [bundle.catalog.ids[row] for row in rows]
            ask = {"history": history, "k": 10}
            with_ranker = service.http.post("/v1/recommend", json=ask).json()
            without = service.http.post("/v1/recommend", json=ask | {"rerank": False}).json()
            want = Want(10, excluded_rows=np.unique(rows).astype(np.int64))
            (plain,) = retriever.retrieve(queries.histories.select([b]), [want])
            assert [item["item_id"] for item in without["items"]] == [bundle.catalog.ids[row] for row in plain.rows]
            assert [item["score"] for item in without["items"]] == pytest.approx(plain.scores.tolist(), rel=5e-7)
            assert with_ranker["timings_ms"]["rank"] > without["timings_ms"]["rank"]
            reordered += with_ranker["items"] != without["items"]
        assert reordered
        assert service.http.get("/v1/models").status_code == 200
