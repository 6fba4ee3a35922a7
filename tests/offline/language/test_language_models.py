from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import normalize

from model_store import base_models
from model_store.encoders.decoder import read_row
from model_store.encoders.packed_attention import Packed
from model_store.encoders.token_row import TokenBlocks
from offline.language.language_models import LanguageModel, same_text_groups, save_adapter, text_vectors

MakeSettings = Callable[..., LanguageModel]
ALL = np.ones(6, dtype=bool)
TEXTS = ["Item 1", "Item 2 a", "Item 1", "item   1", "b", ""]


@pytest.fixture
def make(tiny_base: Path) -> MakeSettings:
    def made(**changes: Any) -> LanguageModel:
        values: dict[str, Any] = {"base": str(tiny_base), "keep_layers": 2, "rank": 4, "served_dtype": "float32"}
        return LanguageModel.model_validate(values | changes)

    return made


def _adapted(settings: LanguageModel) -> PeftModel:
    adapted = settings.with_adapters(settings.open().lm)
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted


@torch.no_grad()
def _read(lm: torch.nn.Module, dtype: torch.dtype) -> Tensor:
    inputs = torch.randn(7, 32, generator=torch.Generator().manual_seed(5)).to(dtype)
    positions = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    return read_row(lm, inputs, positions, Packed([4, 3])).float()


@pytest.mark.parametrize("random_init", [False, True])
def test_merged_equals_adapted(make: MakeSettings, random_init: bool) -> None:
    settings = make(random_init=random_init)
    adapted = _adapted(settings)
    unadapted = _read(settings.open().lm, torch.float32)
    expected = _read(adapted.get_base_model(), torch.float32)
    assert float((expected - unadapted).abs().max()) > 0.01
    merged = settings.merged(adapted)
    torch.testing.assert_close(_read(merged, torch.float32), expected, rtol=1e-5, atol=1e-5)
    assert not any("lora" in name for name, _ in merged.named_parameters())


@pytest.mark.parametrize("random_init", [False, True])
def test_merging_happens_in_float32_whatever_training_computed_in(make: MakeSettings, random_init: bool) -> None:
    settings = make(random_init=random_init, dtype="bfloat16")
    adapted = _adapted(settings)
    assert {parameter.dtype for parameter in adapted.parameters()} == {torch.bfloat16}
    merged = _read(settings.merged(adapted), torch.float32)
    expected = _read(adapted.get_base_model(), torch.bfloat16)
    torch.testing.assert_close(merged, expected, rtol=0.05, atol=0.1)
    cast = make(random_init=random_init, served_dtype="bfloat16").merged(adapted)
    assert {parameter.dtype for parameter in cast.parameters()} == {torch.bfloat16}
    for served, whole in zip(cast.parameters(), settings.merged(adapted).parameters(), strict=True):
        assert torch.equal(served, whole.to(torch.bfloat16))


def test_only_adapters_train_and_they_start_without_effect(make: MakeSettings) -> None:
    settings = make()
    adapted = settings.with_adapters(settings.open().lm)
    trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert len(trainable) == 2 * 7 * 2  # A and B of seven linear layers in two blocks
    assert all("lora_" in name for name in trainable)
    assert torch.equal(_read(adapted.get_base_model(), torch.float32), _read(settings.open().lm, torch.float32))


def test_the_control_has_the_same_shape_and_other_weights(make: MakeSettings) -> None:
    pretrained, control, again = make().open(), make(random_init=True).open(), make(random_init=True).open()
    shapes = [{name: p.shape for name, p in base.lm.named_parameters()} for base in (pretrained, control)]
    assert shapes[0] == shapes[1]
    assert pretrained.identity != control.identity
    assert pretrained.config == control.config
    matrices = [name for name, p in pretrained.lm.named_parameters() if p.dim() == 2]
    assert matrices
    for name in matrices:
        ours, theirs = pretrained.lm.get_parameter(name), control.lm.get_parameter(name)
        assert not torch.allclose(ours, theirs), name
        assert torch.equal(theirs, again.lm.get_parameter(name)), name


def test_an_adapter_is_saved_as_peft_reads_it_and_again_over_an_old_one(make: MakeSettings, tmp_path: Path) -> None:
    adapted = _adapted(make())
    folder = save_adapter(adapted, tmp_path / "adapter")
    (folder / "stale").touch()
    save_adapter(adapted, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_text_vectors_are_centred_and_of_unit_length(make: MakeSettings) -> None:
    found = text_vectors(make(), TEXTS, max_tokens=8, trained_N=ALL)
    unit = found.unit_NH
    assert unit.shape == (6, 32)
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(6))
    base = make().open_for_texts()
    blocks = TokenBlocks(  # of "Item 1", "Item 2 a", "Item 1", "item 1", "b" and "?"
        torch.tensor([64, 5, 64, 6, 1, 64, 5, 0, 5, 2, 0], dtype=torch.int32), torch.tensor([0, 2, 5, 7, 9, 10, 11])
    )
    raw = base_models.encode_texts_mean(base, blocks)
    torch.testing.assert_close(unit, normalize(raw - raw.mean(0), dim=-1))


def test_text_vectors_are_read_after_the_layers_that_the_run_file_names(make: MakeSettings) -> None:
    whole = text_vectors(make(), TEXTS, max_tokens=8, trained_N=ALL)
    assert make(text_layers=1).open_for_texts().config["num_hidden_layers"] == 1
    first = text_vectors(make(text_layers=1), TEXTS, max_tokens=8, trained_N=ALL)
    assert not torch.allclose(first.unit_NH, whole.unit_NH)
    layers = make().open_for_texts().config["num_hidden_layers"]
    for enough in (layers, layers + 9):
        again = text_vectors(make(text_layers=enough), TEXTS, max_tokens=8, trained_N=ALL)
        torch.testing.assert_close(again.unit_NH, whole.unit_NH)


def test_text_vectors_are_made_once(make: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = text_vectors(make(), TEXTS, max_tokens=8, trained_N=ALL)
    read = 0
    original = base_models.encode_texts_mean

    def counted(*arguments: Any) -> Tensor:
        nonlocal read
        read += 1
        return original(*arguments)

    monkeypatch.setattr(base_models, "encode_texts_mean", counted)
    assert torch.equal(text_vectors(make(keep_layers=1), TEXTS, max_tokens=8, trained_N=ALL).unit_NH, first.unit_NH)
    assert read == 0
    assert [file.suffix for file in (tmp_path / "cache/text_vectors").iterdir()] == [".safetensors"]
    text_vectors(make(), TEXTS, max_tokens=1, trained_N=ALL)
    text_vectors(make(), [*TEXTS, "Item 9"], max_tokens=8, trained_N=np.ones(7, dtype=bool))
    other = text_vectors(make(random_init=True), TEXTS, max_tokens=8, trained_N=ALL)
    assert read == 3
    assert not torch.allclose(other.unit_NH, first.unit_NH)


def test_an_item_outside_of_the_training_split_moves_nothing_that_is_fitted(make: MakeSettings) -> None:
    trained = np.array([False, True, True, True, True, False])
    found = text_vectors(make(), TEXTS, max_tokens=8, trained_N=trained)
    other = text_vectors(make(), ["seen in no training", *TEXTS[1:5], "nor this"], max_tokens=8, trained_N=trained)
    # Not to the bit: texts are read packed, and products over rows of another length round differently.
    torch.testing.assert_close(found.unit_NH[1:5], other.unit_NH[1:5])
    assert not torch.allclose(found.unit_NH[0], other.unit_NH[0])
    # Item 0 has the text of items 2 and 3, and is of no group.
    assert found.groups_N.tolist() == [0, 1, 2, 2, 4, 5]


def test_items_of_the_same_text_are_one_group() -> None:
    unit = torch.eye(5)
    assert same_text_groups(unit, ["a", "b", "A ", "c", " b"]).tolist() == [0, 1, 0, 3, 1]


def test_items_of_nearly_the_same_vector_are_one_group() -> None:
    vectors = normalize(torch.tensor([[1.0, 0.0], [1.0, 0.05], [1.0, 0.3], [0.0, 1.0], [0.01, 1.0]]), dim=-1)
    for chunk in (1, 2, 1024):
        assert same_text_groups(vectors, list("abcde"), chunk=chunk).tolist() == [0, 0, 2, 3, 3]


def test_opening_and_adapting_is_silent(make: MakeSettings, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settings = make()
        settings.merged(settings.with_adapters(settings.open().lm))
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
