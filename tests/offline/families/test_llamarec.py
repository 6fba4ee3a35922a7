from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from model_store.bundle import Bundle
from model_store.ranker import InterpolatedRanker
from model_store.retrieval import Want
from offline import reranking
from offline.datasets import Interactions
from offline.evaluation import evaluate
from offline.families import ease, llamarec, sasrec
from offline.sequences import Split
from offline.splits import split
from offline.training import FitPlan

OpenBundle = Callable[..., Bundle]


@pytest.fixture(scope="module")
def data(small_world: Interactions) -> Split:
    return split(small_world, "last-10")


@pytest.fixture
def retriever(data: Split, tmp_path: Path, open_bundle: OpenBundle) -> Bundle:
    recipe = sasrec.Recipe(dim=8, max_history=16, fit=FitPlan(epochs=1, evaluate_every=1, batch=16))
    parts = recipe.train(data.dataset, tmp_path / "sasrec", {}).parts
    return open_bundle(parts, recipe.model_dump(mode="json"))


def _recipe(tiny_base: Path, **changes: Any) -> llamarec.Recipe:
    section = {
        "retriever": "v",
        "prompt": "a b",
        "window": 6,
        "max_history": 4,
        "folds": 2,
        "targets_per_user": 2,
        "prompts": 60,
        "dropout": 0.0,
        "lm": {"base": str(tiny_base), "keep_layers": 3, "served_dtype": "float32", "rank": 4},
        "fit": {"epochs": 2, "evaluate_every": 1, "average": 1, "batch": 16, "learning_rate": 1e-2},
    }
    return llamarec.Recipe.model_validate(section | changes)


class Killed(Exception):
    pass


def test_a_killed_ranker_stage_resumes_and_the_bundle_is_never_below_its_retriever(
    data: Split,
    retriever: Bundle,
    *,
    tiny_base: Path,
    tmp_path: Path,
    open_bundle: OpenBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, parents = _recipe(tiny_base), {"retriever": retriever}
    whole = recipe.train(data.dataset, tmp_path / "whole", parents)
    looks, original = 0, reranking.best_ndcg10

    def killing(*arguments: Any) -> float:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(llamarec, "best_ndcg10", killing)
    with pytest.raises(Killed):
        recipe.train(data.dataset, tmp_path / "killed", parents)
    resumed = recipe.train(data.dataset, tmp_path / "killed", parents)
    assert resumed.parts.ranker is not None
    assert whole.parts.ranker is not None
    theirs = whole.parts.ranker.state_dict()
    for name, tensor in resumed.parts.ranker.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
    assert whole.log["mined"] == 60
    assert (tmp_path / "whole" / "fold-1").is_dir()

    bundle = open_bundle(whole.parts)
    assert isinstance(bundle.ranker, InterpolatedRanker)
    assert bundle.manifest.ranker == bundle.ranker.config
    assert bundle.ranker.config.weight == whole.log["weight"]
    reranked, alone = (
        evaluate(each, data.dataset.validation, seen_removed=True).values("ndcg@10").mean()
        for each in (bundle, retriever)
    )
    assert reranked >= alone
    assert reranked == pytest.approx(whole.log["reranked_ndcg@10"])
    # Without reranking it is the retriever it stands on.
    histories, wants = data.test.histories.select(range(5)), [Want(10, rerank=False)] * 5
    for one, other in zip(bundle.retrieve(histories, wants), retriever.retrieve(histories, wants), strict=True):
        assert one.rows.tolist() == other.rows.tolist()
        np.testing.assert_array_equal(one.scores, other.scores)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ranker": "pointwise"}, "vectors_from"),
        ({"ranker": "pointwise", "vectors_from": "w"}, "remove .*dropout.*lm"),
        ({"vectors_from": "w"}, "verbalizer.*vectors_from"),
        ({"window": 1}, "window"),
        ({"folds": 1}, "folds"),
        ({"healing": {"epochs": 1}}, "healing"),
        ({"item_text": "{name}"}, "item text"),
    ],
)
def test_impossible_pairs_are_refused_by_their_keys(tiny_base: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        _recipe(tiny_base, **changes)


def test_a_written_out_recipe_is_read_again(tiny_base: Path) -> None:
    for recipe in (
        _recipe(tiny_base),
        llamarec.Recipe(retriever="v", ranker="pointwise", vectors_from="w"),
    ):
        assert llamarec.Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_what_only_training_can_see_is_refused_before_a_fold_is_fitted(
    data: Split, retriever: Bundle, *, tiny_base: Path, tmp_path: Path, open_bundle: OpenBundle
) -> None:
    truncated = _recipe(tiny_base, lm={"base": str(tiny_base), "keep_layers": 2})
    with pytest.raises(ValueError, match=r"lm.keep_layers = 2 of 3 .* healing"):
        truncated.train(data.dataset, tmp_path / "run", {"retriever": retriever})
    assert not (tmp_path / "run").exists()
    closed_form = open_bundle(ease.Recipe(lam=5).train(data.dataset, tmp_path, {}).parts)
    with pytest.raises(ValueError, match="no sequence encoder"):
        _recipe(tiny_base).train(data.dataset, tmp_path / "run", {"retriever": closed_form})
    pointwise = llamarec.Recipe(retriever="v", ranker="pointwise", vectors_from="w")
    with pytest.raises(ValueError, match="vectors_from"):
        pointwise.train(data.dataset, tmp_path / "run", {"retriever": retriever, "vectors_from": retriever})
