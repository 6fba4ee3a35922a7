"""Every family that exists, discovered: trained for a few steps, exported, loaded, searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModel

from model_store.bundle import Bundle
from model_store.encoders.history import QueryEncoder
from model_store.encoders.language_model import LanguageModelEncoder
from model_store.retrieval import Want
from offline import families
from offline.datasets import Interactions
from offline.evaluation.full_ranking import evaluate
from offline.evaluation.validation import Validation
from offline.recipe import TrainedModel
from offline.splits.protocols import split
from offline.splits.sequences import Split
from offline.training.full_softmax import full_softmax_loss

OpenBundle = Callable[..., Bundle]
FIT = {"epochs": 2, "evaluate_every": 1, "batch": 16, "learning_rate": 3e-3}
STAGE = {"tokens": 800, "check_tokens": 400, "learning_rate": 3e-3, "batch": 4}
HEALING = STAGE | {"tokens": 3_000, "check_tokens": 1_000, "learning_rate": 0.03, "warmup_steps": 5}

# Family -> variants that its contract must hold for.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "ease": [{"lam": 5}],
    "fused": [{"parts": ["v", "w"]}],
    "sasrec": [
        {"dim": 8, "max_history": 16, "fit": FIT},
        {"dim": 8, "max_history": 12, "fit": FIT, "teacher": "v"},
        {"dim": 8, "max_history": 16, "fit": FIT, "softmax": "sampled", "negatives": 12},
    ],
    "e4srec": [
        {"history_input": "id"},
        {"history_input": "sum"},
        {"history_input": "tokens+id"},
        {"history_input": "sum", "residual": True, "train_items": False},
        {"history_input": "sum", "lm": {"random_init": True}},
        {"history_input": "id", "teacher": "v"},
        {"history_input": "id", "item_input": "vocabulary"},
        {"history_input": "text_vector", "item_tower": "id+text"},
    ],
    "ilora": [
        {"experts": 2, "residual": True},
        {"experts": 2, "history_input": "tokens+id", "gate": "history", "out_of_fold": True},
        {"experts": 4, "gate": "mean"},
        {"space": "common", "item_tower": "text+id", "dim": 8, "experts": 2},
        {"space": "common", "item_tower": "text", "dim": 8, "experts": 2, "lm": {"served_dtype": "bfloat16"}},
    ],
    "contriever": [
        {"history_input": "text_vector"},
        {"history_input": "tokens", "pooling": "mean"},
        {"history_input": "text_vector", "item_training": "cached", "refresh": 3},
        {"history_input": "text_vector", "item_tower": "id", "items_from": "v"},
        {"history_input": "text_vector", "item_training": "in_batch", "chunk": 5},
        {"history_input": "tokens", "pooling": "prompt", "suffix": "a b ?", "targets_per_user": 4},
    ],
    "llamarec": [
        {"window": 8, "folds": 2, "targets_per_user": 2, "lm": {"keep_layers": 3}},
        {"window": 4, "windows": 2, "folds": 2, "targets_per_user": 1, "lm": {"keep_layers": 3}},
        {"window": 8, "folds": 2, "targets_per_user": 1, "healing": HEALING},
        {"ranker": "pointwise", "vectors_from": "v", "window": 8},
    ],
    "llm2vec": [
        {"history_input": "text_vector"},
        {
            "history_input": "tokens",
            "pooling": "mean",
            "item_training": "cached",
            "refresh": 3,
            "healing": HEALING,
            "mntp": STAGE,
            "simcse": STAGE,
        },
        {"history_input": "text_vector", "causal": True},
        {"history_input": "tokens", "causal": True, "pooling": "last", "all_positions": True},
    ],
}
OF_LANGUAGE_MODELS = ("e4srec", "ilora", "contriever", "llamarec", "llm2vec")


def _section(family: str, changes: dict[str, Any], tiny_base: Path) -> dict[str, Any]:
    if family not in OF_LANGUAGE_MODELS:
        return changes
    if family == "llamarec":
        changes = {"retriever": "v"} | changes
        if changes.get("ranker") == "pointwise":
            return changes
    lm = {"base": str(tiny_base), "keep_layers": 2, "served_dtype": "float32", "rank": 4} | changes.get("lm", {})
    section: dict[str, Any] = {"max_history": 16, "prompt": "a b", "fit": FIT} | changes | {"lm": lm}
    if family == "llm2vec" and not section.get("all_positions"):
        section = {"targets_per_user": 3} | section
    named: dict[str, dict[str, Any]] = {
        "ilora": {"items_from": "v"},
        "e4srec": {"items_from": "v"},
        "contriever": {"dim": 8},
        "llm2vec": {"dim": 8},
    }
    return section | named.get(family, {})


CASES = [(family, variant) for family, variants in VARIANTS.items() for variant in variants]


def test_every_family_is_covered() -> None:
    assert len(families.names()) == 8
    assert sorted(VARIANTS) == families.names()


@pytest.fixture(scope="module")
def data(small_world: Interactions) -> Split:
    return split(small_world, "last-10")


@pytest.fixture
def parents(data: Split, tmp_path: Path, open_bundle: OpenBundle) -> Mapping[str, Bundle]:
    """A SASRec in each role that names one, and EASE beside it in a fusion."""
    recipe = families.recipe_class("sasrec").model_validate(VARIANTS["sasrec"][0])
    bundle = open_bundle(recipe.train(data.dataset, tmp_path / "parent", {}).parts, recipe.model_dump(mode="json"))
    ease = families.recipe_class("ease").model_validate(VARIANTS["ease"][0])
    other = open_bundle(ease.train(data.dataset, tmp_path / "other", {}).parts)
    return {"items_from": bundle, "retriever": bundle, "teacher": bundle, "parts[0]": bundle, "parts[1]": other}


@pytest.fixture
def with_vectors(
    data: Split, *, tiny_base: Path, tmp_path: Path, open_bundle: OpenBundle, parents: Mapping[str, Bundle]
) -> Mapping[str, Bundle]:
    """And a language model's vectors."""
    section = VARIANTS["contriever"][0] | {"fit": FIT | {"epochs": 1}}
    trained = _train("contriever", section, data, tiny_base=tiny_base, folder=tmp_path / "vectors", parents={})
    return {**parents, "vectors_from": open_bundle(trained.parts)}


def _train(
    family: str, variant: dict[str, Any], data: Split, *, tiny_base: Path, folder: Path, parents: Mapping[str, Bundle]
) -> TrainedModel:
    recipe = families.recipe_class(family).model_validate(_section(family, variant, tiny_base))
    return recipe.train(data.dataset, folder, {role: parents[role] for role in recipe.parent_references()})


@pytest.mark.parametrize(("family", "variant"), CASES, ids=lambda case: str(case)[:60])
def test_a_recipe_comes_back_from_what_a_manifest_keeps(family: str, variant: dict[str, Any], tiny_base: Path) -> None:
    """A manifest names every key, written or not: no refusal may depend on that."""
    recipe = families.recipe_class(family).model_validate(_section(family, variant, tiny_base))
    assert type(recipe).recorded(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(("family", "variant"), CASES, ids=lambda case: str(case)[:60])
def test_trained_exported_loaded_searched(
    family: str,
    variant: dict[str, Any],
    data: Split,
    *,
    tiny_base: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    open_bundle: OpenBundle,
) -> None:
    parents = request.getfixturevalue("with_vectors" if "vectors_from" in variant else "parents")
    trained = _train(family, variant, data, tiny_base=tiny_base, folder=tmp_path / "run", parents=parents)
    parts = trained.parts
    bundle = open_bundle(parts)
    assert bundle.manifest.family == family
    histories = data.test.histories.select(range(20))
    found = bundle.retrieve(histories, [Want(k=10, rerank=False)] * 20)
    with torch.inference_mode():
        cut = histories.windowed(parts.encoder.max_history, parts.encoder.jump)
        scores_BN = (parts.encoder(cut).double() @ parts.item_vectors_ND.double().T).numpy()
    for scores_N, candidates in zip(scores_BN, found, strict=True):
        expected = np.lexsort((np.arange(len(scores_N)), -scores_N))[:10]
        # float32 on both sides: neighbours closer than rounding may stand the other way round.
        np.testing.assert_allclose(scores_N[candidates.rows], scores_N[expected], rtol=1e-4, atol=1e-5)
    assert evaluate(bundle, data.test, seen_removed=True).values("hr@10").mean() > 0


@pytest.mark.parametrize("family", ["sasrec", "e4srec", "contriever", "llamarec", "ilora", "llm2vec"])
def test_the_same_seed_gives_the_same_loss(
    family: str, data: Split, *, tiny_base: Path, tmp_path: Path, parents: Mapping[str, Bundle]
) -> None:
    logs = [
        _train(family, VARIANTS[family][0], data, tiny_base=tiny_base, folder=tmp_path / name, parents=parents).log
        for name in "ab"
    ]
    curves = [[(point["loss"], point["ndcg@10"]) for point in log["curve"]] for log in logs]  # type: ignore[attr-defined]
    assert len(curves[0]) == 2
    assert curves[0] == curves[1]


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        ("sasrec", 0),
        ("sasrec", 1),
        ("sasrec", 2),
        ("e4srec", 1),
        ("contriever", 2),
        ("contriever", 4),
        ("contriever", 5),
        ("ilora", 0),
    ],
)
def test_a_killed_run_resumes_to_the_same_bundle(
    family: str,
    variant: int,
    data: Split,
    *,
    tiny_base: Path,
    tmp_path: Path,
    parents: Mapping[str, Bundle],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def train(folder: Path) -> TrainedModel:
        section = VARIANTS[family][variant]
        return _train(family, section, data, tiny_base=tiny_base, folder=folder, parents=parents)

    whole = train(tmp_path / "whole")
    original, looks = Validation.ndcg10, 0

    def killing(self: Validation, encoder: QueryEncoder, item_vectors_ND: torch.Tensor) -> float:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise Killed
        return original(self, encoder, item_vectors_ND)

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "ndcg10", killing)
        with pytest.raises(Killed):
            train(tmp_path / "killed")
    resumed = train(tmp_path / "killed")
    assert torch.equal(resumed.parts.item_vectors_ND, whole.parts.item_vectors_ND)
    ours, theirs = resumed.parts.encoder.state_dict(), whole.parts.encoder.state_dict()
    for name, tensor in theirs.items():
        assert torch.equal(tensor, ours[name]), name


SOFTMAXES = [
    (family, variant)
    for family, variants in VARIANTS.items()
    for variant in variants
    if variant is variants[0] or variant.get("out_of_fold")
    if family not in ("ease", "fused", "llamarec")  # none of their own; the verbalizer's runs over candidates
]


@pytest.mark.parametrize(("family", "variant"), SOFTMAXES, ids=lambda case: str(case)[:60])
def test_no_softmax_of_a_family_runs_over_a_cold_item(
    family: str,
    variant: dict[str, Any],
    small_world: Interactions,
    *,
    tiny_base: Path,
    tmp_path: Path,
    open_bundle: OpenBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = split(small_world, "cold-items-0")
    recipe = families.recipe_class("sasrec").model_validate(VARIANTS["sasrec"][0])
    parents = {"items_from": open_bundle(recipe.train(data.dataset, tmp_path / "parent", {}).parts)}
    cold_N = torch.from_numpy(data.dataset.cold_items)
    seen: list[torch.Tensor] = []

    def spy(logits_TN: torch.Tensor, targets_T: torch.Tensor) -> torch.Tensor:
        seen.append(logits_TN.detach())
        return torch.nn.functional.cross_entropy(logits_TN, targets_T)

    closed: list[torch.Tensor | None] = []

    def spy_on_pieces(*tensors: torch.Tensor, closed_N: torch.Tensor | None, **more: Any) -> torch.Tensor:
        closed.append(closed_N)
        return full_softmax_loss(*tensors, closed_N=closed_N, **more)

    for module in ("offline.training.objectives", "offline.training.read_out_objective"):
        monkeypatch.setattr(f"{module}.cross_entropy", spy)
        monkeypatch.setattr(f"{module}.full_softmax_loss", spy_on_pieces)
    _train(family, variant, data, tiny_base=tiny_base, folder=tmp_path / "run", parents=parents)
    assert seen or closed
    for closed_N in closed:
        assert closed_N is not None
        assert torch.equal(closed_N, cold_N)
    for logits_TN in seen:
        assert torch.isinf(logits_TN[:, cold_N]).all()
        assert torch.isfinite(logits_TN[:, ~cold_N]).any(dim=1).all()


def test_peft_reads_the_adapter_and_the_bundle_serves_it_merged(
    data: Split, *, tiny_base: Path, tmp_path: Path, parents: Mapping[str, Bundle]
) -> None:
    variant = VARIANTS["e4srec"][1]
    parts = _train("e4srec", variant, data, tiny_base=tiny_base, folder=tmp_path / "run", parents=parents).parts
    assert parts.adapter is not None
    assert isinstance(parts.encoder, LanguageModelEncoder)
    stock = AutoModel.from_pretrained(tiny_base)
    stock.layers = stock.layers[:2]
    merged = peft.PeftModel.from_pretrained(stock, str(parts.adapter)).merge_and_unload().state_dict()
    served = parts.encoder.lm.state_dict()
    compared = [name for name in served if name in merged]
    assert len(compared) > 15
    for name in compared:
        torch.testing.assert_close(served[name], merged[name])


def test_the_controls_tell_when_a_part_is_missing(
    data: Split, *, tiny_base: Path, tmp_path: Path, parents: Mapping[str, Bundle], open_bundle: OpenBundle
) -> None:
    parts = _train(
        "contriever", VARIANTS["contriever"][0], data, tiny_base=tiny_base, folder=tmp_path / "run", parents=parents
    ).parts
    assert sorted(parts.controls) == ["adapter", "item table", "projector"]
    assert open_bundle(parts).manifest.warnings == []
