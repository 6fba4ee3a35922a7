from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModel

from model_store.adapter import check_adapter
from model_store.encoders.gated_lora import gated_layers
from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import LanguageModelConfig, LanguageModelEncoder, encoder_on
from offline.gating.gated_export import gated_as_served, plain_lora, save_gated_adapter
from offline.language.language_models import LanguageModel

SEQUENCE = {"items": 40, "dim": 6, "blocks": 1, "heads": 1, "max_history": 9, "jump": 3}
HISTORIES = HistoryBatch.of([[1], [4, 2], list(range(9))])


@pytest.fixture
def settings(tiny_base: Path) -> LanguageModel:
    return LanguageModel(base=str(tiny_base), keep_layers=2, rank=4, alpha=6, served_dtype="float32")


@pytest.fixture
def encoder(settings: LanguageModel) -> LanguageModelEncoder:
    base = settings.open()
    config = LanguageModelConfig.model_validate(
        {
            "lm": base.config,
            "items": 40,
            "dim": 6,
            "max_history": 9,
            "jump": 3,
            "item_input": "vector",
            "gated_lora": {"experts": 2, "rank": 4, "alpha": 6, "sequence": SEQUENCE},
        }
    )
    torch.manual_seed(0)
    made = encoder_on(config, base).eval()
    made.item_inputs.normal_()
    for layer in gated_layers(made.lm).values():
        nn.init.normal_(layer.lora_B, std=0.3)
    nn.init.normal_(made.gated_lora.router.weight)
    return made


@torch.no_grad()
def test_served_is_what_was_trained(encoder: LanguageModelEncoder, settings: LanguageModel) -> None:
    served = gated_as_served(encoder, settings)
    assert torch.equal(served(HISTORIES), encoder(HISTORIES))
    coarse = gated_as_served(encoder, settings.model_copy(update={"served_dtype": "bfloat16"}))
    assert {parameter.dtype for parameter in coarse.lm.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in coarse.gated_lora.parameters()} == {torch.float32}
    assert float(torch.cosine_similarity(coarse(HISTORIES), encoder(HISTORIES)).min()) > 0.99


@torch.no_grad()
def test_peft_reads_all_experts_as_the_mixture_at_the_uniform_gate(
    encoder: LanguageModelEncoder, settings: LanguageModel, tiny_base: Path, tmp_path: Path
) -> None:
    folder = save_gated_adapter(encoder, settings, tmp_path / "adapter")
    check_adapter(folder, encoder)
    stock = AutoModel.from_pretrained(tiny_base)
    stock.layers = stock.layers[:2]
    merged = peft.PeftModel.from_pretrained(stock, str(folder)).merge_and_unload().state_dict()
    encoder.gated_lora.make_constant(torch.full((2,), 0.5))
    layers = gated_layers(encoder.lm)
    assert len(layers) == 14
    for name, layer in layers.items():
        torch.testing.assert_close(layer.weight + 6 / 4 * layer.lora_B @ layer.lora_A, merged[f"{name}.weight"])
    plain = encoder.config.model_copy(update={"gated_lora": None}).build(settings.open().lm).eval()
    plain.load_state_dict({name: t for name, t in encoder.state_dict().items() if name in plain.state_dict()})
    plain.lm.load_state_dict({name: t for name, t in merged.items() if "embed_tokens" not in name})
    torch.testing.assert_close(plain(HISTORIES), encoder(HISTORIES), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_one_gate_for_all_merges(encoder: LanguageModelEncoder, settings: LanguageModel) -> None:
    encoder.gated_lora.make_constant(torch.tensor([0.8, 0.2]))
    expected = encoder(HISTORIES)
    merged = settings.merged(plain_lora(encoder, settings))
    plain = encoder.config.model_copy(update={"gated_lora": None}).build(merged).eval()
    ours = {name: t for name, t in encoder.state_dict().items() if name in plain.state_dict() and name[:3] != "lm."}
    plain.load_state_dict(ours, strict=False)
    torch.testing.assert_close(plain(HISTORIES), expected, rtol=1e-4, atol=1e-5)
