from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from model_store.encoders.decoder import read_row
from model_store.encoders.packed_attention import Packed
from offline.language.language_models import LanguageModel, save_adapter
from offline.text_stages.stage_adapters import StageAdapter, combined, merged, staged_decoder, take_adapter


@pytest.fixture
def settings(tiny_base: Path) -> LanguageModel:
    return LanguageModel(base=str(tiny_base), keep_layers=2, rank=4, alpha=6, served_dtype="float32")


def _adapted(settings: LanguageModel, lm: PreTrainedModel, *, seed: int) -> PeftModel:
    adapted = settings.with_adapters(lm)
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted


@torch.no_grad()
def _read(lm: torch.nn.Module) -> Tensor:
    inputs = torch.randn(7, 32, generator=torch.Generator().manual_seed(5))
    return read_row(lm, inputs.to(next(lm.parameters()).dtype), torch.tensor([0, 1, 2, 3, 0, 1, 2]), Packed([4, 3]))


def _stages(settings: LanguageModel, count: int) -> tuple[list[StageAdapter], list[Tensor]]:
    """Adapters trained one after another, and what the model reads after each."""
    adapters: list[StageAdapter] = []
    read = []
    for stage in range(count):
        lm = staged_decoder(settings, adapters) if adapters else settings.open().lm
        adapted = _adapted(settings, lm, seed=stage)
        read.append(_read(adapted.get_base_model()))
        adapters.append(take_adapter(adapted))
    return adapters, read


def test_the_next_stage_starts_where_the_last_one_ended(settings: LanguageModel) -> None:
    adapters, read = _stages(settings, 3)
    for count in (1, 2, 3):
        found = _read(staged_decoder(settings, adapters[:count]))
        torch.testing.assert_close(found, read[count - 1], rtol=1e-4, atol=1e-5)
        if count > 1:
            assert float((found - read[count - 2]).abs().max()) > 0.01


def test_one_adapter_stands_for_all_stages_and_peft_reads_it(
    settings: LanguageModel, tiny_base: Path, tmp_path: Path
) -> None:
    adapters, read = _stages(settings, 3)
    one = combined(settings, adapters)
    assert one.peft_config["default"].r == 12
    torch.testing.assert_close(_read(merged(settings, one)), read[-1], rtol=1e-4, atol=1e-5)
    folder = save_adapter(one, tmp_path / "adapter")
    stock = AutoModel.from_pretrained(tiny_base)
    stock.layers = stock.layers[:2]
    theirs = peft.PeftModel.from_pretrained(stock, str(folder)).merge_and_unload().state_dict()
    for name, tensor in staged_decoder(settings, adapters).state_dict().items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=1e-6)


def test_all_stages_are_merged_in_float32_and_cast_once(settings: LanguageModel) -> None:
    adapters, _ = _stages(settings, 2)
    whole = staged_decoder(settings, adapters)
    half = staged_decoder(settings.model_copy(update={"dtype": "bfloat16"}), adapters)
    served = merged(settings.model_copy(update={"served_dtype": "bfloat16"}), combined(settings, adapters))
    for ours, cast, exact in zip(half.parameters(), served.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, exact.to(torch.bfloat16))
        assert torch.equal(cast, exact.to(torch.bfloat16))
