"""Only text decoders that transformers ships, nothing that could run other code; RoPE tables survive a load."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model_store.encoders.decoder import build_decoder, cast_decoder, decoder_config, read_row, rebuild_buffers
from model_store.encoders.packed_attention import Packed


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("not an architecture", {"model_type": "mine"}),
        ("not an architecture", {"model_type": None}),
        ("auto_map", {"auto_map": {"AutoModel": "evil--repo.Model"}}),
        ("quantization_config", {"quantization_config": {"quant_method": "gptq"}}),
        ("more than a text decoder", {"model_type": "gemma3"}),
        (
            "depend on its batch",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        ),
    ],
)
def test_other_models_are_refused(llama: dict[str, Any], reason: str, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=reason):
        decoder_config(llama | change)


def test_rope_tables_are_rebuilt_after_a_load_on_meta(architecture: dict[str, Any]) -> None:
    original = build_decoder(architecture, torch.bfloat16).eval()
    with torch.device("meta"):
        loaded = build_decoder(architecture, torch.bfloat16).eval()
    assert all(buffer.is_meta for name, buffer in loaded.named_buffers() if "inv_freq" in name)
    loaded.load_state_dict(original.state_dict(), assign=True)
    embedding = loaded.get_input_embeddings()
    loaded.set_input_embeddings(torch.nn.Identity())
    rebuild_buffers(loaded, torch.device("cpu"))
    expected = dict(original.named_buffers())
    rebuilt = {name: buffer for name, buffer in loaded.named_buffers() if "inv_freq" in name}
    assert rebuilt
    for name, buffer in rebuilt.items():
        assert buffer.dtype == torch.float32
        assert torch.equal(buffer, expected[name])
    assert embedding is not None


def test_casting_spares_the_rope_tables(llama: dict[str, Any]) -> None:
    lm = build_decoder(llama, torch.float32).eval()
    tables = {name: buffer.clone() for name, buffer in lm.named_buffers()}
    cast_decoder(lm, torch.bfloat16)
    assert {parameter.dtype for parameter in lm.parameters()} == {torch.bfloat16}
    assert lm.dtype == torch.bfloat16
    for name, buffer in lm.named_buffers():
        assert torch.equal(buffer, tables[name])
    states = read_row(lm, torch.randn(3, 32, dtype=torch.bfloat16), torch.arange(3), Packed([3]))
    assert states.dtype == torch.bfloat16
