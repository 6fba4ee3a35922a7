"""One service goes through a version of every family and of every kind of bundle, and answers what may be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from model_store.ranker import InterpolatedRanker
from model_store.store import ModelStore
from offline import families
from offline.families import llamarec
from offline.pipeline import run
from offline.ranking.reranking import RerankingProblem
from offline.run_config import RunConfig
from offline.workspace import Workspace
from tests.app.conftest import Running, running, without_child

WriteRun = Callable[..., Path]
# Run -> family, and the keys of its recipe; parents first.
RUNS: dict[str, tuple[str, dict[str, str]]] = {
    "sasrec": ("sasrec", {}),
    "ease": ("ease", {}),
    "placed": ("sasrec", {"cold_start": '"regression"'}),
    "debiased": ("sasrec", {"popularity_debiasing": "true", "cold_start": '"regression"'}),
    "e4srec": ("e4srec", {"items_from": '"run:sasrec"', "residual": "true"}),
    "ilora": ("ilora", {"items_from": '"run:sasrec"', "experts": "2", "history_input": '"tokens+id"'}),
    "ilora-common": ("ilora", {"items_from": '"run:sasrec"', "experts": "2", "space": '"common"', "dim": "8"}),
    "contriever": ("contriever", {"dim": "8"}),
    "contriever-placed": ("contriever", {"dim": "8", "cold_start": '"regression"', "popularity_debiasing": "true"}),
    "llm2vec": ("llm2vec", {"dim": "8", "history_input": '"tokens"', "targets_per_user": "2"}),
    "fused": ("fused", {"parts": '["run:contriever", "run:ease"]'}),
    "llamarec": ("llamarec", {"retriever": '"run:sasrec"'}),
    "pointwise": ("llamarec", {"retriever": '"run:sasrec"'}),
}
FOR_POINTWISE = {"ranker": '"pointwise"', "vectors_from": '"run:contriever"', "window": "6"}


def _pointwise(written: Path) -> Path:
    """A pointwise ranker trains nothing and refuses the keys of a training."""
    head = written.read_text().partition("[recipe]")[0]
    recipe = {"family": '"llamarec"', "retriever": '"run:sasrec"'} | FOR_POINTWISE
    written.write_text(head + "[recipe]\n" + "\n".join(f"{key} = {value}" for key, value in recipe.items()) + "\n")
    return written


@pytest.fixture
def versions(write_run: WriteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Run -> the version that it published."""

    def half(problem: RerankingProblem, ranker: InterpolatedRanker) -> dict[str, object]:
        """With the weight 0, which one epoch on random weights deserves, no ranker would run."""
        ranker.config = ranker.config.model_copy(update={"weight": 0.5})
        return {"weight": 0.5, "queries": len(problem.found)}

    monkeypatch.setattr(llamarec, "choose_weight", half)
    store, workspace = ModelStore(tmp_path / "store"), Workspace(tmp_path / "cache")
    made = {}
    for name, (family, recipe) in RUNS.items():
        file = write_run(name, family, **recipe)
        file.write_text(file.read_text().replace("epochs = 3", "epochs = 1"))
        made[name] = run(
            RunConfig.load(_pointwise(file) if name == "pointwise" else file), store=store, workspace=workspace
        )
    return made


@pytest.fixture
def service(versions: dict[str, str], tmp_path: Path) -> Iterator[Running]:
    store = ModelStore(tmp_path / "store")
    store.activate(versions["sasrec"], by="test")
    settings = Settings(store=store.root, data=tmp_path / "data", redis_url="none", poll_seconds=0.05)
    with without_child(), running(settings) as served:
        yield served.ready()


def test_every_version_answers_all_that_may_be_asked(
    versions: dict[str, str], service: Running, tmp_path: Path
) -> None:
    assert {family for family, _ in RUNS.values()} == set(families.names())
    store = ModelStore(tmp_path / "store")
    for name, version in versions.items():
        moved = service.http.put("/v1/labels/live?wait=30", json={"version": version})
        assert moved.status_code == 200, (name, moved.text)
        _asked(service, version, RUNS[name][0], has_ranker=store.open(version).ranker is not None)
    kinds = {store.manifest(version).encoder.kind for version in versions.values()}
    assert kinds >= {"sequence", "language_model", "weighted_sum", "fused", "appended"}
    assert (tmp_path / "store" / versions["placed"] / "placer").exists()
    with_light = {name for name in versions if (tmp_path / "store" / versions[name] / "fallback").exists()}
    assert with_light == {"e4srec", "ilora"}, "those whose items are a SASRec's"


def _asked(service: Running, version: str, family: str, *, has_ranker: bool) -> None:
    history = [f"i{row}" for row in range(5)]

    def ask(**more: Any) -> dict[str, Any]:
        answer = service.http.post("/v1/recommend", json={"history": history} | more)
        assert answer.status_code == 200, (version, more, answer.text)
        body: dict[str, Any] = answer.json()
        assert (body["version"], body["family"]) == (version, family)
        spent = body["timings_ms"]
        assert set(spent) == {"queue", "encode", "search", "rank", "total"}
        assert 0 <= max(spent[stage] for stage in ("queue", "encode", "search", "rank")) <= spent["total"]
        return body

    plain, unranked = ask(k=4), ask(k=4, rerank=False)
    assert [len(body["items"]) for body in (plain, unranked)] == [4, 4]
    if has_ranker:
        assert plain["timings_ms"]["rank"] > unranked["timings_ms"]["rank"]
    else:
        assert plain["items"] == unranked["items"]
    assert not {item["item_id"] for item in plain["items"]} & set(history)
    assert all(item["title"] for item in plain["items"])
    allowed = ["i7", "i9", "i11"]
    assert {item["item_id"] for item in ask(allow_ids=allowed, exclude_ids=["i9"])["items"]} == {"i7", "i11"}
    whole = ask(k=1000, exclude_seen=False)
    assert (len(whole["items"]), whole["exhausted"]) == (30, True)
    assert ask(categories=["none such"])["items"] == []
    assert ask(history=[])["fallback"] == "popular"
    unknown = ask(history=["i1", "never heard of"])
    assert (unknown["unknown_items"], unknown["fallback"]) == (["never heard of"], None)
    assert len(ask(history=history * 40)["items"]) == 10
