from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModel

from model_store.bundle import Bundle
from model_store.ranker import InterpolatedRanker
from model_store.rankers.verbalizer import VerbalizerRanker
from model_store.retrieval import Want
from offline.datasets import Interactions
from offline.evaluation.full_ranking import evaluate
from offline.families import ease, llamarec, sasrec
from offline.language.lm_head import lm_head
from offline.ranking import reranking
from offline.splits.protocols import split
from offline.splits.sequences import Split
from offline.text_stages.healing import NotHealed
from offline.training.loop import FitPlan

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


TRUNCATED = {
    "lm": {"base": "-", "keep_layers": 2, "served_dtype": "float32", "rank": 4},
    "healing": {"tokens": 3_000, "check_tokens": 1_000, "batch": 4, "learning_rate": 0.03, "warmup_steps": 5},
}


class Killed(Exception):
    pass


def _on(tiny_base: Path, changes: dict[str, Any]) -> dict[str, Any]:
    return changes | {"lm": changes["lm"] | {"base": str(tiny_base)}} if changes else changes


@pytest.mark.parametrize("changes", [{}, TRUNCATED], ids=["whole", "healed"])
def test_a_killed_ranker_stage_resumes_and_the_bundle_is_never_below_its_retriever(
    data: Split,
    retriever: Bundle,
    *,
    changes: dict[str, Any],
    tiny_base: Path,
    tmp_path: Path,
    open_bundle: OpenBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, parents = _recipe(tiny_base, **_on(tiny_base, changes)), {"retriever": retriever}
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
        ({"healing": {"epochs": 1}}, "healing.epochs"),
        ({"ranker": "pointwise", "vectors_from": "w", "healing": {"tokens": 1}}, "remove .*healing"),
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
    with pytest.raises(ValueError, match=r"verbalizer .* lm\.keep_layers = 2.* \[recipe\.healing\]"):
        truncated.train(data.dataset, tmp_path / "run", {"retriever": retriever})
    assert not (tmp_path / "run").exists()
    closed_form = open_bundle(ease.Recipe(lam=5).train(data.dataset, tmp_path, {}).parts)
    with pytest.raises(ValueError, match="no sequence encoder"):
        _recipe(tiny_base).train(data.dataset, tmp_path / "run", {"retriever": closed_form})
    pointwise = llamarec.Recipe(retriever="v", ranker="pointwise", vectors_from="w")
    with pytest.raises(ValueError, match="vectors_from"):
        pointwise.train(data.dataset, tmp_path / "run", {"retriever": retriever, "vectors_from": retriever})


def test_a_head_that_healing_left_unreadable_trains_no_ranker(
    data: Split, retriever: Bundle, *, tiny_base: Path, tmp_path: Path
) -> None:
    shy = _on(tiny_base, TRUNCATED) | {"healing": {"tokens": 100, "learning_rate": 1e-9}}
    with pytest.raises(NotHealed, match=r"the verbalizer .* healing\.tokens or lm\.keep_layers"):
        _recipe(tiny_base, **shy).train(data.dataset, tmp_path / "run", {"retriever": retriever})
    assert not (tmp_path / "run" / "fold-0").exists()


def test_a_healed_verbalizer_is_served_with_both_adapters_merged(
    data: Split, retriever: Bundle, *, tiny_base: Path, tmp_path: Path, open_bundle: OpenBundle
) -> None:
    recipe = _recipe(tiny_base, **_on(tiny_base, TRUNCATED))
    trained = recipe.train(data.dataset, tmp_path / "run", {"retriever": retriever})
    stages = trained.log["stages"]
    assert isinstance(stages, dict)
    assert stages["healing"]["held_out_nats"] < stages["healing"]["held_out_nats_before"] - 0.5
    ranker, adapter = trained.parts.ranker, trained.parts.ranker_adapter
    assert isinstance(ranker, VerbalizerRanker)
    assert adapter is not None
    # One adapter of the base that everybody has stands for both stages.
    stock = AutoModel.from_pretrained(tiny_base)
    stock.layers = stock.layers[:2]
    both = peft.PeftModel.from_pretrained(stock, str(adapter))
    assert both.peft_config["default"].r == 2 * recipe.lm.rank
    merged = both.merge_and_unload().state_dict()
    compared = [name for name in ranker.lm.state_dict() if name in merged]
    assert len(compared) > 15
    for name in compared:
        torch.testing.assert_close(ranker.lm.state_dict()[name], merged[name])
    # It loads, its golden rankings notice each part that is missing, and it reorders what was found.
    assert open_bundle(trained.parts).manifest.warnings == []
    ranker.config = ranker.config.model_copy(update={"weight": 1.0})
    bundle = open_bundle(trained.parts)
    histories = data.test.histories.select(range(20))
    with_it, without = (bundle.retrieve(histories, [Want(10, rerank=asked)] * 20) for asked in (True, False))
    assert any(one.rows.tolist() != other.rows.tolist() for one, other in zip(with_it, without, strict=True))


def test_the_head_s_rows_answer_for_letters_and_the_table_s_are_read(tiny_base: Path, data: Split) -> None:
    recipe = _recipe(tiny_base, **_on(tiny_base, TRUNCATED))
    base = recipe.lm.open()
    head_VH = lm_head(recipe.lm, base)
    ranker = recipe._untrained(data.dataset, base, head_VH=head_VH)
    known = [token for token in ranker.config.identifiers if token < len(head_VH)]
    assert known == [1, 2]  # "a" and "b" are all that this vocabulary has
    assert torch.equal(ranker.identifier_outputs[:2], head_VH[known])
    assert torch.equal(ranker.identifier_inputs[:2], base.embedding(torch.tensor(known)))
    assert not torch.equal(ranker.identifier_inputs[:2], ranker.identifier_outputs[:2])
    assert torch.equal(ranker.identifier_inputs[2:], ranker.identifier_outputs[2:])
