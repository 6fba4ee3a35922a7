from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model_store.bundle import Bundle
from model_store.encoders.appended import AppendedConfig
from model_store.encoders.fused import FusedConfig
from model_store.encoders.history import HistoryBatch
from model_store.encoders.sequence import SequenceConfig
from model_store.errors import BundleRefused
from model_store.fallback_files import CONFIG, GOLDEN, NEEDED, WEIGHTS, reads_with_language_model
from model_store.manifest import Provenance
from model_store.preparing import prepare
from model_store.staging import BundleParts
from model_store.store import ModelStore
from tests.model_store.signing import sign
from tests.model_store.test_verification import refused

TinyParts = Callable[..., BundleParts]
HISTORIES = HistoryBatch.of([[1], [5, 6, 7], list(range(30))])


def sequence(*, items: int = 40, dim: int = 8, max_history: int = 6) -> SequenceConfig:
    return SequenceConfig(items=items, dim=dim, blocks=1, heads=2, max_history=max_history, jump=2)


@pytest.fixture
def parts(tiny_parts: TinyParts) -> BundleParts:
    """The light encoder is another one, with a shorter window of its own."""
    made = tiny_parts()
    torch.manual_seed(3)
    light = sequence().build().eval()
    with torch.no_grad():
        light.items.weight.copy_(made.item_vectors_ND)
    return replace(made, fallback=light)


@pytest.fixture
def folder(parts: BundleParts, store: ModelStore, provenance: Provenance) -> Path:
    return store.folder(store.publish(store.stage(parts, provenance=provenance)))


def test_it_comes_back_as_it_was(folder: Path, parts: BundleParts, tmp_path: Path) -> None:
    assert parts.fallback is not None
    expected = parts.fallback(HISTORIES.windowed(6, 2))
    for bundle in (Bundle.load(folder), Bundle.open(prepare(folder, tmp_path / "cache"))):
        assert bundle.fallback is not None
        assert not any(parameter.requires_grad for parameter in bundle.fallback.parameters())
        torch.testing.assert_close(bundle.encode_light(HISTORIES), expected, rtol=0, atol=0)
        assert not torch.allclose(bundle.encode(HISTORIES).vectors_BD, expected)
    assert set(NEEDED) <= bundle.manifest.files.keys()


def test_without_one_the_light_answer_is_the_encoder_s_own(store: ModelStore, publish: Callable[..., str]) -> None:
    bundle = store.open(publish())
    assert bundle.fallback is None
    assert torch.equal(bundle.encode_light(HISTORIES), bundle.encode(HISTORIES).vectors_BD)


@pytest.mark.parametrize("name", NEEDED)
def test_half_of_one_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, f"{name} is missing", tmp_path)
    sign(folder)
    refused(folder, f"{name} is missing", tmp_path)


def test_weights_that_are_not_finite(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["norm.weight"][0] = float("nan")
    save_file(tensors, folder / WEIGHTS)
    sign(folder)
    refused(folder, f"{WEIGHTS}: norm.weight is not finite", tmp_path)


@pytest.mark.parametrize("name", ["items.weight", "positions.weight", "norm.weight"])
def test_weights_of_another_model_do_not_answer_as_recorded(folder: Path, name: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors[name] = tensors[name].flip(0).contiguous() * 1.5
    save_file(tensors, folder / WEIGHTS)
    sign(folder)
    with pytest.raises(BundleRefused, match=f"{GOLDEN}: .*is not the recorded one"):
        Bundle.load(folder)


def test_a_tensor_is_missing(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["norm.bias"]
    save_file(tensors, folder / WEIGHTS)
    sign(folder)
    with pytest.raises(BundleRefused, match=f"{WEIGHTS} does not fit {CONFIG}"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"items": 41}, "41 items in 8 numbers, not 40 in 8"),
        ({"dim": 16}, "40 items in 16 numbers, not 40 in 8"),
        ({"kind": "os.system"}, CONFIG),
        ({"extra": 1}, CONFIG),
    ],
)
def test_a_config_of_something_else(folder: Path, tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    config = json.loads((folder / CONFIG).read_bytes()) | changes
    (folder / CONFIG).write_text(json.dumps(config))
    sign(folder)
    refused(folder, reason, tmp_path)


def test_what_does_not_fit_the_bundle_is_not_staged(
    tiny_parts: TinyParts, store: ModelStore, provenance: Provenance
) -> None:
    for light, reason in (
        (sequence(items=39).build(), "39 items in 8 numbers, not 40 in 8"),
        (sequence(dim=4).build(), "40 items in 4 numbers"),
        (sequence().build().bfloat16(), "not all float32"),
    ):
        with pytest.raises(ValueError, match=reason):
            store.stage(replace(tiny_parts(), fallback=light), provenance=provenance)
    endless = sequence().build()
    torch.nn.init.constant_(endless.norm.weight, float("inf"))
    with pytest.raises(ValueError, match=r"fallback: norm\.weight is not finite"):
        store.stage(replace(tiny_parts(), fallback=endless), provenance=provenance)


def test_a_language_model_is_not_light(real_config: object) -> None:
    assert reads_with_language_model(real_config)
    assert reads_with_language_model(AppendedConfig.model_construct(inner=real_config))
    assert reads_with_language_model(FusedConfig.model_construct(parts=(sequence(), real_config)))
    assert not reads_with_language_model(AppendedConfig(inner=sequence()))
    assert not reads_with_language_model(FusedConfig(parts=(sequence(), sequence()), weights=(1.0, 1.0)))


@pytest.fixture
def real_config() -> object:
    from model_store.encoders.language_model import LanguageModelConfig

    return LanguageModelConfig.model_construct(items=40, dim=8)
