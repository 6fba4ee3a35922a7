from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoConfig, AutoModel, MistralConfig, MistralForCausalLM

from model_store.bundle import Bundle
from model_store.encoders.history import AllPositions, Growing, HistoryBatch
from model_store.encoders.language_model import LanguageModelEncoder
from model_store.staging import BundleParts
from offline.datasets import Interactions
from offline.families import llm2vec
from offline.language.item_towers import CachedTower
from offline.language.language_model_recipe import LanguageModelRecipe
from offline.splits.protocols import split
from offline.splits.sequences import SequenceDataset
from offline.text_stages import healing
from offline.text_stages import stages as text_stages
from offline.text_stages.healing import NotHealed
from offline.training.read_out_objective import ReadOutNextItem

OpenBundle = Callable[[BundleParts], Bundle]
STAGE = {"tokens": 300, "check_tokens": 150, "learning_rate": 0.01, "batch": 4}
STAGES = {"healing": STAGE, "next_title": STAGE, "mntp": STAGE, "simcse": STAGE}
ARMS = [(causal, pooling) for causal in (False, True) for pooling in ("weighted_mean", "mean", "last")]


@pytest.fixture(scope="module")
def dataset(small_world: Interactions) -> SequenceDataset:
    return split(small_world, "last-10").dataset


@pytest.fixture(autouse=True)
def no_collection_between_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate collects garbage after each fit: a second each time, over the heap of a whole test process."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)


def _recipe(tiny_base: Path, **changes: Any) -> llm2vec.Recipe:
    lm = {"base": str(tiny_base), "keep_layers": 2, "served_dtype": "float32", "rank": 4} | changes.pop("lm", {})
    section = {
        "prompt": "a b",
        "item_text": "{title}",
        "max_history": 8,
        "dim": 8,
        "targets_per_user": 1,
        "lm": lm,
        "fit": {"epochs": 1, "evaluate_every": 1, "batch": 32, "learning_rate": 1e-3},
    }
    return llm2vec.Recipe.model_validate(section | changes)


@pytest.fixture
def any_loss_is_healed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate has its own test; here healing is too short to pass it."""
    monkeypatch.setattr(healing, "LARGEST_LOSS", 100.0)


def test_impossible_pairs_are_refused_before_training(
    dataset: SequenceDataset, tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValidationError, match=r"all_positions .* causal"):
        _recipe(tiny_base, all_positions=True)
    with pytest.raises(ValidationError, match=r"all_positions .* targets_per_user"):
        _recipe(tiny_base, all_positions=True, causal=True)
    with pytest.raises(ValidationError, match="attention_dropout"):
        _recipe(tiny_base, simcse=STAGE | {"attention_dropout": 0.0})
    for stage in ("mntp", "next_title"):
        with pytest.raises(ValueError, match=rf"{stage} .* lm\.keep_layers = 2.* \[recipe\.healing\]"):
            _recipe(tiny_base, **{stage: STAGE}).train(dataset, tmp_path, {})
    assert not list(tmp_path.iterdir()), "nothing was trained"


def test_a_stage_that_reads_the_head_waits_for_healing_to_succeed(
    dataset: SequenceDataset, tiny_base: Path, tmp_path: Path
) -> None:
    recipe = _recipe(tiny_base, healing=STAGE | {"learning_rate": 1e-6}, mntp=STAGE)
    with pytest.raises(NotHealed, match=r"mntp .* nats per token, not below 4: raise healing\.tokens or lm\."):
        recipe.train(dataset, tmp_path, {})
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-healing"]


def test_stages_on_all_layers_need_no_healing(dataset: SequenceDataset, tiny_base: Path, tmp_path: Path) -> None:
    recipe = _recipe(tiny_base, mntp=STAGE, lm={"keep_layers": 3})
    assert list(recipe._stages(dataset, tmp_path).logs) == ["mntp"]


@pytest.mark.usefixtures("any_loss_is_healed")
def test_what_all_stages_made_is_served_and_peft_reads_it(
    dataset: SequenceDataset, tiny_base: Path, tmp_path: Path, open_bundle: OpenBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_objectives: list[ReadOutNextItem] = []
    original = LanguageModelRecipe._trained

    def kept(self: Any, family: str, objective: ReadOutNextItem, *rest: Any, **named: Any) -> Any:
        trained_objectives.append(objective)
        return original(self, family, objective, *rest, **named)

    monkeypatch.setattr(LanguageModelRecipe, "_trained", kept)
    recipe = _recipe(tiny_base, history_input="tokens", **STAGES)
    trained = recipe.train(dataset, tmp_path / "run", {})
    logs = trained.log["stages"]
    assert isinstance(logs, dict)
    assert list(logs) == ["healing", "next_title", "mntp", "simcse"]
    assert trained.log["seconds"] > sum(log["seconds"] for log in logs.values())
    # In memory (base, three merged stages, unmerged adapters) against the bundle (all merged, from disk).
    histories = dataset.train.windowed(8, 2).select(range(20))
    with torch.no_grad():
        expected = trained_objectives[0].encoder(histories)
        found = open_bundle(trained.parts).encoder(histories)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert trained.parts.adapter is not None
    assert isinstance(trained.parts.encoder, LanguageModelEncoder)
    stock = AutoModel.from_pretrained(tiny_base)
    stock.layers = stock.layers[:2]
    merged = peft.PeftModel.from_pretrained(stock, str(trained.parts.adapter)).merge_and_unload().state_dict()
    served = trained.parts.encoder.lm.state_dict()
    compared = [name for name in served if name in merged]
    assert len(compared) > 15
    for name in compared:
        torch.testing.assert_close(served[name], merged[name], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("any_loss_is_healed")
def test_the_same_seed_gives_the_same_losses_in_every_stage(
    dataset: SequenceDataset, tiny_base: Path, tmp_path: Path
) -> None:
    def losses(name: str) -> dict[str, list[tuple[float, float]]]:
        logs = _recipe(tiny_base, **STAGES)._stages(dataset, tmp_path / name).logs
        return {
            stage: [(point["loss"], point[text_stages.MEASURE]) for point in log["curve"]]  # type: ignore[attr-defined]
            for stage, log in logs.items()
        }

    first = losses("a")
    assert {stage: len(curve) for stage, curve in first.items()} == dict.fromkeys(STAGES, 2)
    assert first == losses("b")


class Killed(Exception):
    pass


@pytest.mark.usefixtures("any_loss_is_healed")
def test_a_run_killed_in_or_between_stages_resumes_to_the_same_bundle(
    dataset: SequenceDataset, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks 2 and 3 are healing's, 4 comes before mntp's first step, 5 and 6 are its own."""
    recipe = _recipe(tiny_base, healing=STAGE, mntp=STAGE)
    whole = recipe.train(dataset, tmp_path / "whole", {})
    original, looks, fatal = text_stages.held_out_loss, 0, 0

    def killing(*arguments: Any, **named: Any) -> float:
        nonlocal looks
        looks += 1
        if looks == fatal:
            raise Killed
        return original(*arguments, **named)

    for fatal in (3, 4, 6):
        looks, folder = 0, tmp_path / f"killed at {fatal}"
        with monkeypatch.context() as patch:
            patch.setattr(text_stages, "held_out_loss", killing)
            with pytest.raises(Killed):
                recipe.train(dataset, folder, {})
        stages = ["checkpoint-healing", "checkpoint-mntp"] if fatal == 6 else ["checkpoint-healing"]
        assert sorted(path.name for path in folder.glob("checkpoint-*")) == stages
        resumed = recipe.train(dataset, folder, {})
        assert torch.equal(resumed.parts.item_vectors_ND, whole.parts.item_vectors_ND)
        theirs = resumed.parts.encoder.state_dict()
        for name, tensor in whole.parts.encoder.state_dict().items():
            assert torch.equal(tensor, theirs[name]), name


def test_the_six_arms_differ_in_attention_and_pooling_alone(dataset: SequenceDataset, tiny_base: Path) -> None:
    recipes = [_recipe(tiny_base, causal=causal, pooling=pooling, targets_per_user=3) for causal, pooling in ARMS]
    sections = [recipe.model_dump(exclude={"causal", "pooling"}) for recipe in recipes]
    assert all(section == sections[0] for section in sections)
    vectors = []
    for recipe in recipes:
        torch.manual_seed(0)
        base = recipe.lm.open()
        blocks = recipe._item_blocks(dataset, base)
        encoder = recipe._encoder(dataset, base, blocks)
        objective = recipe._objective(dataset, encoder, base, blocks=blocks)
        assert objective.single_target
        windows = recipe._windows(dataset, objective)
        assert callable(windows)
        read = windows(4)
        assert torch.equal(read.rows, recipes[0]._windows(dataset, objective)(4).rows)  # type: ignore[operator]
        # Growing states and all positions only where they are right.
        assert isinstance(encoder, Growing) is isinstance(encoder, AllPositions) is recipe.causal
        objective.eval().refresh()
        with torch.no_grad():
            vectors.append(encoder(HistoryBatch.of([[1, 5, 9, 3]])))
    for one, first in enumerate(vectors):
        assert all(not torch.allclose(first, other, rtol=1e-3) for other in vectors[:one])


def test_a_causal_arm_may_learn_at_all_positions(dataset: SequenceDataset, tiny_base: Path) -> None:
    section = _recipe(tiny_base).model_dump(exclude={"targets_per_user"})
    recipe = llm2vec.Recipe.model_validate(section | {"all_positions": True, "causal": True})
    base = recipe.lm.open()
    blocks = recipe._item_blocks(dataset, base)
    objective = recipe._objective(dataset, recipe._encoder(dataset, base, blocks), base, blocks=blocks)
    assert not objective.single_target
    assert isinstance(recipe._windows(dataset, objective), HistoryBatch)


@pytest.mark.parametrize("causal", [True, False])
def test_item_texts_are_read_with_the_attention_of_histories(
    causal: bool, dataset: SequenceDataset, tiny_base: Path
) -> None:
    recipe = _recipe(tiny_base, item_training="cached", history_input="tokens", causal=causal)
    base = recipe.lm.open()
    blocks = recipe._item_blocks(dataset, base)
    objective = recipe._objective(dataset, recipe._encoder(dataset, base, blocks), base, blocks=blocks)
    assert isinstance(objective.items, CachedTower)
    same = CachedTower(base.lm, base.embedding, blocks, dim=8, refresh=1, causal=causal)
    same.head = objective.items.head
    with torch.no_grad():
        assert torch.equal(objective.items(), same())


def test_cold_items_are_in_no_denominator(small_world: Interactions, tiny_base: Path) -> None:
    cold = split(small_world, "cold-items-0").dataset
    recipe = _recipe(tiny_base)
    base = recipe.lm.open()
    blocks = recipe._item_blocks(cold, base)
    objective = recipe._objective(cold, recipe._encoder(cold, base, blocks), base, blocks=blocks).eval()
    windows = HistoryBatch.of([cold.train.history(0)[:4]])
    before = objective(windows)
    texts_NH = objective.items.text_NH
    assert isinstance(texts_NH, torch.Tensor)
    with torch.no_grad():
        texts_NH[torch.from_numpy(cold.cold_items)] *= -1
    assert torch.equal(objective(windows), before)
    with torch.no_grad():
        texts_NH *= -1
    assert not torch.equal(objective(windows), before)


def test_a_bidirectional_window_is_stated(dataset: SequenceDataset, tmp_path: Path, tiny_base: Path) -> None:
    folder = tmp_path / "mistral"
    config = MistralConfig(**AutoConfig.from_pretrained(tiny_base).to_dict() | {"sliding_window": 5})
    MistralForCausalLM(config).save_pretrained(folder)
    shutil.copy(tiny_base / "tokenizer.json", folder)
    for causal, stated in ((False, "distance < window"), (True, None)):
        recipe = _recipe(folder, causal=causal)
        base = recipe.lm.open()
        config_of = recipe._encoder(dataset, base, recipe._item_blocks(dataset, base)).config
        assert config_of.bidirectional_window == stated
        with pytest.raises(ValidationError, match="bidirectional_window"):
            type(config_of).model_validate(config_of.model_dump() | {"causal": not causal})
