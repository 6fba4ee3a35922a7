"""A tower that reads texts: on disk and back, alone and in a batch, and refused when it is not what it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from model_store import text_tower
from model_store.base_models import open_base
from model_store.errors import BundleRefused
from model_store.text_tower import TextTower, TextTowerConfig
from model_store.text_tower_files import CONFIG, TOKENIZER, WEIGHTS, read_text_tower, write_text_tower

TEXTS = ["Item 3", "a b | Item 7", "", "nothing that it knows", "Item 3 Item 4 Item 5 Item 6 Item 7 Item 8"]


@pytest.fixture
def tower(tiny_base: Path) -> TextTower:
    base = open_base(str(tiny_base), dtype=torch.float32)
    config = TextTowerConfig(
        lm=base.config,
        vocabulary=len(next(base.embedding.parameters())),
        inner_dim=6,
        item_text="{title}",
        max_tokens=8,
        centred=True,
        constants=(0.5,),
        golden_texts=tuple(TEXTS[:3]),
        golden_rows=(0, 1, 2),
    )
    torch.manual_seed(0)
    made = config.build(base.lm).eval().requires_grad_(False)
    made.token_inputs.copy_(base.embedding(torch.arange(config.vocabulary)))
    made.centre_H.normal_(std=0.1)
    made.tokenizer = Tokenizer.from_file(str(base.tokenizer_file))
    return made


@pytest.fixture
def folder(tower: TextTower, tiny_base: Path, tmp_path: Path) -> Path:
    shutil.copyfile(tiny_base / "tokenizer.json", tmp_path / TOKENIZER)
    assert write_text_tower(tower, tmp_path, item_vectors_ND=tower.encode_texts(TEXTS)) == []
    return tmp_path


def test_what_is_read_back_places_texts_where_they_were(tower: TextTower, folder: Path) -> None:
    read = read_text_tower(folder)
    assert read is not None
    placed_ND = tower.encode_texts(TEXTS)
    torch.testing.assert_close(read.encode_texts(TEXTS), placed_ND)
    torch.testing.assert_close(placed_ND[:, :6].norm(dim=1), torch.ones(len(TEXTS)))
    assert placed_ND[:, 6].tolist() == [0.5] * len(TEXTS)
    assert read.encode_texts([]).shape == (0, 7)


def test_neighbours_change_nothing(tower: TextTower, monkeypatch: pytest.MonkeyPatch) -> None:
    together_ND = tower.encode_texts(TEXTS)
    for text, vector_D in zip(TEXTS, together_ND, strict=True):
        torch.testing.assert_close(tower.encode_texts([text])[0], vector_D)
    monkeypatch.setattr(text_tower, "AT_ONCE", 5)
    torch.testing.assert_close(tower.encode_texts(TEXTS), together_ND)


def test_a_tower_that_places_items_elsewhere_is_told_of(tower: TextTower, tiny_base: Path, tmp_path: Path) -> None:
    shutil.copyfile(tiny_base / "tokenizer.json", tmp_path / TOKENIZER)
    (said,) = write_text_tower(tower, tmp_path, item_vectors_ND=-tower.encode_texts(TEXTS))
    assert "elsewhere" in said


def _weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / WEIGHTS).unlink(),
        lambda folder: (folder / TOKENIZER).unlink(),
        lambda folder: (folder / TOKENIZER).write_text("{}"),
        lambda folder: (folder / CONFIG).write_text("{}"),
        _weights(lambda tensors: tensors.pop("centre_H")),
        _weights(lambda tensors: tensors.update({"head.1.weight": torch.zeros(3, 3)})),
        _weights(lambda tensors: tensors["head.1.weight"].neg_()),
        _weights(lambda tensors: tensors["token_inputs"].copy_(tensors["token_inputs"].flip(0))),
        _weights(lambda tensors: tensors["head.3.bias"].fill_(np.nan)),
    ],
)
def test_a_damaged_tower_is_refused(folder: Path, damage: Callable[[Path], object]) -> None:
    damage(folder)
    with pytest.raises(BundleRefused):
        read_text_tower(folder)


def test_a_bundle_without_one_has_none(tmp_path: Path) -> None:
    assert read_text_tower(tmp_path) is None
