"""The gate for base models: exact architectures pass, others are refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from model_store.encoders.decoder import build_decoder
from model_store.encoders.packed_attention import Packed
from model_store.errors import BaseModelRefused
from model_store.packed_check import refuse_unless_packed_is_exact

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "initializer_range": 0.2,
}


def _decoder(model_type: str, **more: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return build_decoder(TINY | {"model_type": model_type} | more, torch.float32).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("model_type", "more"), [("llama", {}), ("qwen3", {}), ("mistral", {"sliding_window": 64})])
def test_exact_architectures_pass(model_type: str, more: dict[str, Any], dtype: torch.dtype) -> None:
    lm = build_decoder(TINY | {"model_type": model_type} | more, dtype).eval()
    weights = {name: parameter.clone() for name, parameter in lm.named_parameters()}
    refuse_unless_packed_is_exact(lm, model_type)
    assert lm.config._attn_implementation == "packed"
    assert all(torch.equal(parameter, weights[name]) for name, parameter in lm.named_parameters())


def test_soft_capping_is_refused_with_the_reason() -> None:
    with pytest.raises(BaseModelRefused, match=r"my-gemma cannot be read in packed rows: .*softcap"):
        refuse_unless_packed_is_exact(_decoder("gemma2", query_pre_attn_scalar=8, head_dim=8), "my-gemma")


def test_a_bidirectional_encoder_is_refused() -> None:
    bert = _decoder("bert", attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0)
    with pytest.raises(BaseModelRefused, match="bert"):
        refuse_unless_packed_is_exact(bert, "bert")


def test_a_window_that_goes_wrong_is_found_though_no_row_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Packed.mask

    def blind(self: Packed, new: int, past: int, *, window: int | None, device: torch.device) -> torch.Tensor:
        return right(self, new, past, window=None, device=device)

    monkeypatch.setattr(Packed, "mask", blind)
    with pytest.raises(BaseModelRefused, match="my-mistral with a window of 4: packed rows differ"):
        refuse_unless_packed_is_exact(_decoder("mistral", sliding_window=64), "my-mistral")


def test_state_that_leaks_between_histories_is_refused() -> None:
    lm = _decoder("llama")
    lm.layers[0].mlp.register_forward_hook(lambda _module, _args, output: output + output.mean(1, keepdim=True))
    with pytest.raises(BaseModelRefused, match="packed rows differ from one by one"):
        refuse_unless_packed_is_exact(lm, "leaking")


def test_layers_that_do_not_attend_through_the_interface_are_refused() -> None:
    lm = _decoder("llama")

    class Pass(torch.nn.Module):
        def forward(self, hidden_states: torch.Tensor, **_others: object) -> tuple[torch.Tensor, None]:
            return hidden_states, None

    lm.layers[1].self_attn = Pass()
    with pytest.raises(BaseModelRefused, match="not every one of them attends"):
        refuse_unless_packed_is_exact(lm, "half-recurrent")
