from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor
from transformers import Qwen2Config, Qwen2Model

from model_store.encoders import products
from offline.language.merged_lora import merge_in_forward


def _adapted(dtype: torch.dtype = torch.float32, *, dropout: float = 0.0) -> torch.nn.Module:
    """Qwen2: its query, key and value projections have biases."""
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=8,
        initializer_range=0.2,
    )
    lora = LoraConfig(r=3, lora_alpha=7, lora_dropout=dropout, target_modules="all-linear")
    adapted: torch.nn.Module = get_peft_model(Qwen2Model(config).to(dtype), lora, autocast_adapter_dtype=False)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name or "bias" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return adapted


def _outputs_and_gradients(model: torch.nn.Module) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    torch.manual_seed(1)
    inputs = torch.randn(2, 5, 16, requires_grad=True)
    outputs = model(inputs_embeds=inputs).last_hidden_state
    (outputs**3).sum().backward()
    assert inputs.grad is not None
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return outputs.detach(), gradients, inputs.grad


@pytest.mark.parametrize("onednn", [False, True])
def test_outputs_and_gradients_are_peft_s(onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "onednn_is_faster", lambda: onednn)
    monkeypatch.setattr(products, "FEWEST", 1)
    theirs = _adapted()
    ours = deepcopy(theirs)
    merge_in_forward(ours)
    expected, expected_gradients, expected_input_gradient = _outputs_and_gradients(theirs)
    outputs, gradients, input_gradient = _outputs_and_gradients(ours)
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(input_gradient, expected_input_gradient, rtol=1e-3, atol=1e-4)
    assert set(gradients) == set(expected_gradients)
    assert len(gradients) == 2 * 7 * 2
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-3, atol=1e-4, msg=name)


def test_the_thin_products_are_gone() -> None:
    ours = _adapted()
    merge_in_forward(ours)
    calls: list[torch.nn.Module] = []
    for module in ours.modules():
        if isinstance(module, Linear):
            module.lora_A["default"].register_forward_hook(lambda module, *_: calls.append(module))
    ours(inputs_embeds=torch.randn(1, 3, 16))
    assert calls == []


def test_bfloat16_layers_stay_as_they_are() -> None:
    model = _adapted(torch.bfloat16)
    merge_in_forward(model)
    assert all("forward" not in vars(module) for module in model.modules())


def test_dropout_is_not_left_out_silently() -> None:
    with pytest.raises(AssertionError, match="dropout"):
        merge_in_forward(_adapted(dropout=0.1))
