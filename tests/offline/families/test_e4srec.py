from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import LanguageModelEncoder
from model_store.staging import BundleParts
from offline.evaluation.validation import Validation
from offline.families import e4srec
from offline.splits.sequences import SequenceDataset

OpenBundle = Callable[[BundleParts], Bundle]


def _recipe(tiny_base: Path, **changes: Any) -> e4srec.Recipe:
    section = {
        "items_from": "v",
        "prompt": "a b",
        "max_history": 16,
        "residual": True,
        "train_items": False,
        "lm": {"base": str(tiny_base), "keep_layers": 2, "served_dtype": "float32", "rank": 4},
        "fit": {"epochs": 1, "evaluate_every": 1, "batch": 16, "learning_rate": 1e-3},
    }
    return e4srec.Recipe.model_validate(section | changes)


def test_step_0_with_residual_is_the_sasrec_it_starts_from(
    dataset: SequenceDataset, start: Bundle, tiny_base: Path
) -> None:
    recipe = _recipe(tiny_base)
    encoder = recipe._encoder(dataset, recipe.lm.open(), start).eval()
    histories = dataset.train.windowed(16, 4).select(range(10))
    with torch.inference_mode():
        torch.testing.assert_close(encoder(histories), start.encoder(histories), rtol=0, atol=0)


def test_beta_is_chosen_on_validation_and_served_beside_the_sasrec(
    dataset: SequenceDataset, start: Bundle, tmp_path: Path, tiny_base: Path, open_bundle: OpenBundle
) -> None:
    trained = _recipe(tiny_base).train(dataset, tmp_path / "run", {"items_from": start})
    encoder = trained.parts.encoder
    assert isinstance(encoder, LanguageModelEncoder)
    assert encoder.config.residual is not None
    assert encoder.config.residual.beta == trained.log["beta"]
    by_beta, at_ten = trained.log["ndcg_by_beta"], trained.log["ndcg@10_by_beta"]
    assert isinstance(by_beta, dict)
    assert isinstance(at_ten, dict)
    assert len(by_beta) == len(at_ten) == 9
    assert by_beta[str(trained.log["beta"])] == max(by_beta.values())
    served = Validation.of(dataset).ndcg10(encoder, trained.parts.item_vectors_ND)
    assert at_ten[str(trained.log["beta"])] == pytest.approx(served, abs=1e-6)
    # The SASRec inside and the item matrix stay as they were.
    assert torch.equal(trained.parts.item_vectors_ND, torch.from_numpy(start.index.vectors_ND))
    for name, tensor in encoder.residual_sequence.state_dict().items():
        assert torch.equal(tensor, start.encoder.state_dict()[name]), name
    light = open_bundle(trained.parts).encode_light(dataset.train)
    torch.testing.assert_close(light, start.encode(dataset.train).vectors_BD)


def test_impossible_pairs_are_refused_before_training(
    dataset: SequenceDataset, start: Bundle, tmp_path: Path, tiny_base: Path
) -> None:
    with pytest.raises(ValidationError, match="train_items"):
        _recipe(tiny_base, train_items=True)
    with pytest.raises(ValidationError, match=r"residual = true.*teacher"):
        _recipe(tiny_base, teacher="v")
    with pytest.raises(ValidationError, match=r"distillation = 0\.3.*teacher"):
        _recipe(tiny_base, distillation=0.3)
    with pytest.raises(ValidationError, match=r'item_tower = "id\+text".*cold_start = "regression"'):
        _recipe(tiny_base, item_tower="id+text", cold_start="regression")
    for reads_text in ("sum", "text_vector"):
        with pytest.raises(ValidationError, match=f'item_input = "vocabulary".*history_input = "{reads_text}"'):
            _recipe(tiny_base, item_input="vocabulary", history_input=reads_text)
    for wrong in ({"dropout": 1.0}, {"branch_drop": 1.1}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            _recipe(tiny_base, **wrong)
    with pytest.raises(ValueError, match="max_history"):
        _recipe(tiny_base, max_history=32).train(dataset, tmp_path, {"items_from": start})
    with pytest.raises(ValidationError, match="item text"):
        _recipe(tiny_base, item_text="{name}")


def test_the_items_move_unless_they_are_frozen(
    dataset: SequenceDataset, start: Bundle, tmp_path: Path, tiny_base: Path
) -> None:
    before = torch.from_numpy(start.index.vectors_ND)
    for train_items in (True, False):
        recipe = _recipe(tiny_base, residual=False, train_items=train_items)
        parts = recipe.train(dataset, tmp_path / str(train_items), {"items_from": start}).parts
        assert torch.equal(before, parts.item_vectors_ND) != train_items
        assert (parts.fallback is None) == train_items, "where items have moved, a SASRec's query means nothing"


def test_text_alone_is_read_and_ids_are_answered(
    dataset: SequenceDataset, start: Bundle, tmp_path: Path, tiny_base: Path
) -> None:
    recipe = _recipe(tiny_base, residual=False, train_items=True, history_input="text_vector")
    parts = recipe.train(dataset, tmp_path / "run", {"items_from": start}).parts
    assert isinstance(parts.encoder, LanguageModelEncoder)
    before = torch.from_numpy(start.index.vectors_ND)
    assert parts.item_vectors_ND.shape == before.shape
    assert not torch.equal(parts.item_vectors_ND, before), "the ID matrix learns"
    # Items 0 and 30 have different titles; what is read of an item does not know its ID vector.
    projector = recipe._projector(dataset, recipe.lm.open(), start)
    rows = torch.tensor([0, 30])
    assert torch.equal(projector(rows, before), projector(rows, before + 1))
    assert float((projector(rows, None)[0] - projector(rows, None)[1]).detach().abs().max()) > 0


def test_new_rows_of_the_vocabulary_learn_and_the_old_ones_stay(
    dataset: SequenceDataset, start: Bundle, tmp_path: Path, tiny_base: Path
) -> None:
    recipe = _recipe(tiny_base, residual=False, history_input="tokens+id", item_input="vocabulary")
    torch.manual_seed(0)
    base = recipe.lm.open()
    rows = recipe._projector(dataset, base, start)
    torch.manual_seed(0)
    projector = recipe.model_copy(update={"item_input": "vector"})._projector(dataset, recipe.lm.open(), start)
    vectors = torch.from_numpy(start.index.vectors_ND)
    torch.testing.assert_close(rows.table(len(vectors), None), projector.table(len(vectors), vectors))
    assert [name for name, _ in rows.named_parameters()] == ["rows_NH"]
    encoder = recipe.train(dataset, tmp_path / "run", {"items_from": start}).parts.encoder
    assert isinstance(encoder, LanguageModelEncoder)
    learnt = torch.unique(dataset.train.rows.long())
    assert float(encoder.item_inputs[learnt].abs().sum(1).min()) > 0
    untrained = recipe._encoder(dataset, base, start)
    assert torch.equal(encoder.token_inputs, untrained.token_inputs)
    assert encoder.item_inputs.shape == (len(dataset.catalog), base.hidden)


def test_a_model_of_fewer_layers_learns_from_one_of_more(
    dataset: SequenceDataset, start: Bundle, tmp_path: Path, tiny_base: Path, open_bundle: OpenBundle
) -> None:
    plain: dict[str, Any] = {"residual": False, "train_items": True, "history_input": "id"}
    fit = {"epochs": 9, "evaluate_every": 3, "batch": 16, "learning_rate": 1e-2, "item_learning_rate": 1e-2}
    large = _recipe(tiny_base, **plain, fit=fit | {"epochs": 12}, lm=_lm(tiny_base, 3))
    teacher = open_bundle(large.train(dataset, tmp_path / "large", {"items_from": start}).parts)
    histories = dataset.train.windowed(16, 4).select(range(40))
    gaps = []
    for teaching in ({}, {"teacher": "v", "distillation": 100.0}):
        small = _recipe(tiny_base, **plain, fit=fit, lm=_lm(tiny_base, 1), **teaching)
        assert small.parent_references().get("teacher") == teaching.get("teacher")
        parents = {"items_from": start} | ({"teacher": teacher} if teaching else {})
        parts = small.train(dataset, tmp_path / f"small-{len(teaching)}", parents).parts
        assert isinstance(parts.encoder, LanguageModelEncoder)
        assert len(parts.encoder.lm.layers) == 1
        gaps.append(_gap(open_bundle(parts), teacher, histories))
    assert gaps[1] < 0.9 * gaps[0]


def _gap(one: Bundle, other: Bundle, histories: HistoryBatch) -> float:
    """Half the mean distance of what the two say of items that a history does not hold: 0 to 1."""
    shares = []
    for bundle in (one, other):
        scores_BN = bundle.encode(histories).vectors_BD @ torch.from_numpy(bundle.index.vectors_ND).T
        for b in range(len(histories)):
            scores_BN[b, histories.history(b).long()] = float("-inf")
        shares.append(scores_BN.softmax(-1))
    return float((shares[0] - shares[1]).abs().sum(-1).mean()) / 2


def _lm(tiny_base: Path, layers: int) -> dict[str, Any]:
    return {"base": str(tiny_base), "keep_layers": layers, "served_dtype": "float32", "rank": 4}
