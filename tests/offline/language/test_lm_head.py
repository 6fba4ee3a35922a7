from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from model_store.encoders.decoder import read_row
from model_store.encoders.packed_attention import Packed
from offline.language.language_models import LanguageModel
from offline.language.lm_head import lm_head, truncated


def _settings(folder: Path, keep_layers: int = 3) -> LanguageModel:
    return LanguageModel(base=str(folder), keep_layers=keep_layers)


@pytest.fixture
def tied(tiny_base: Path, tmp_path: Path) -> Path:
    config = AutoConfig.from_pretrained(tiny_base)
    config.tie_word_embeddings = True
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tied")
    shutil.copy(tiny_base / "tokenizer.json", tmp_path / "tied")
    return tmp_path / "tied"


@pytest.mark.parametrize("kind", ["own", "tied"])
@torch.no_grad()
def test_logits_are_those_of_the_stock_model(kind: str, tiny_base: Path, tied: Path) -> None:
    folder = tiny_base if kind == "own" else tied
    settings = _settings(folder)
    base = settings.open()
    tokens = torch.tensor([5, 9, 2, 44])
    states = read_row(base.lm, base.embedding(tokens), torch.arange(4), Packed([4]))
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.testing.assert_close(states @ lm_head(settings, base).T, stock(tokens[None]).logits[0], rtol=1e-4, atol=1e-4)


def test_a_head_that_does_more_than_one_product_is_refused(tiny_base: Path) -> None:
    settings = _settings(tiny_base)
    base = settings.open()
    with pytest.raises(ValueError, match="final_logit_softcapping"):
        lm_head(settings, replace(base, config=base.config | {"final_logit_softcapping": 30.0}))


def test_a_model_that_lacks_layers_is_told(tiny_base: Path) -> None:
    assert truncated(_settings(tiny_base, 2))
    assert not truncated(_settings(tiny_base, 3))
