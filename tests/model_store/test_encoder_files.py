from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from model_store import encoder_files
from model_store.encoder_files import (
    ITEM_TOKENS,
    WEIGHTS,
    multiplies_bfloat16,
    read_encoder,
    write_encoder,
)
from model_store.encoders.language_model import LanguageModelConfig, LanguageModelEncoder
from model_store.encoders.sequence import SequenceConfig, SequenceEncoder
from model_store.errors import BundleRefused
from model_store.module_files import read_tensors

CONFIG = SequenceConfig(items=6, dim=4, blocks=1, heads=2, max_history=5, jump=1)


class Tokens(nn.Module):
    """The name and the buffers of a token table."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("tokens", torch.arange(9, dtype=torch.int32))
        self.register_buffer("offsets", torch.tensor([0, 2, 3, 4, 7, 8, 9]))


class WithTokens(SequenceEncoder):
    def __init__(self, config: SequenceConfig) -> None:
        super().__init__(config)
        self.item_tokens = Tokens()


def test_written_and_read(tmp_path: Path) -> None:
    encoder = SequenceEncoder(CONFIG)
    write_encoder(encoder, tmp_path)
    again = read_encoder(tmp_path)
    assert again.config == CONFIG
    assert not (tmp_path / ITEM_TOKENS).exists()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_the_token_table_has_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_encoder(WithTokens(CONFIG), tmp_path)
    table = load_file(tmp_path / ITEM_TOKENS)
    assert table.keys() == {"tokens", "offsets"}
    assert table["tokens"].dtype == torch.int32
    with safe_open(tmp_path / WEIGHTS, framework="pt") as opened:
        assert not [name for name in opened.keys() if "token" in name]  # noqa: SIM118 - not a dict
    monkeypatch.setattr(SequenceConfig, "build", lambda config: WithTokens(config))
    again = read_encoder(tmp_path)
    assert torch.equal(again.get_buffer("item_tokens.offsets"), table["offsets"])


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    encoder = SequenceEncoder(CONFIG)
    whole = torch.randn(10, 4)
    encoder.items.weight = nn.Parameter(whole[:6])
    encoder.positions.weight = nn.Parameter(whole[5:])  # overlaps
    write_encoder(encoder, tmp_path)
    assert torch.equal(read_encoder(tmp_path).get_parameter("positions.weight"), whole[5:])


def test_a_buffer_that_nothing_fills_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(SequenceEncoder):
        def __init__(self, config: SequenceConfig) -> None:
            super().__init__(config)
            self.register_buffer("table", torch.zeros(3), persistent=False)

    write_encoder(SequenceEncoder(CONFIG), tmp_path)
    monkeypatch.setattr(SequenceConfig, "build", lambda config: Forgetful(config))
    with pytest.raises(BundleRefused, match="nothing fills table"):
        read_encoder(tmp_path)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"12345678")
    with pytest.raises(BundleRefused, match=r"x\.safetensors"):
        read_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("capabilities", "multiplies"),
    [
        ({"avx2": True, "avx512_f": True}, False),
        ({}, False),
        ({"avx512_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
    ],
)
def test_a_processor_multiplies_bfloat16_or_emulates_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], multiplies: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert multiplies_bfloat16(torch.device("cpu")) == multiplies
    assert multiplies_bfloat16(torch.device("cuda")), "whatever the processor can do"


def test_torch_and_the_kernel_are_of_one_mind_about_this_processor() -> None:
    """torch's names are no documented interface: one that changed would make every CPU one that emulates."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "flags" not in flags:
        pytest.skip("the kernel lists no flags of an x86 processor")
    assert {"avx512_bf16", "amx_bf16"} <= torch.cpu.get_capabilities().keys()
    assert multiplies_bfloat16(torch.device("cpu")) == ("avx512_bf16" in flags or "amx_bf16" in flags)


def test_a_cast_encoder_is_not_in_memory_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the last tensor is cast, none of the stored ones is left, though the caller has not got the encoder yet."""
    lm = {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2}
    config = LanguageModelConfig(
        lm=lm | {"num_attention_heads": 2}, items=6, dim=4, max_history=5, jump=1, item_input="vector", dtype="bfloat16"
    )
    encoder = config.build()
    stored = sum(tensor.nbytes for tensor in encoder.state_dict().values() if tensor.dtype == torch.bfloat16)
    write_encoder(encoder, tmp_path)
    del encoder
    left = []
    cast = LanguageModelEncoder.compute_in

    def watched(encoder: LanguageModelEncoder, dtype: torch.dtype) -> None:
        before = stored_bytes()
        cast(encoder, dtype)
        left.append((before, stored_bytes()))

    monkeypatch.setattr(LanguageModelEncoder, "compute_in", watched)
    monkeypatch.setattr(encoder_files, "multiplies_bfloat16", lambda device: False)
    gc.collect()
    assert stored_bytes() == 0
    read_encoder(tmp_path)
    assert left == [(stored, 0)]


def stored_bytes() -> int:
    """Of all bfloat16 tensors in this process."""
    tensors = [found for found in gc.get_objects() if isinstance(found, torch.Tensor)]
    return sum(tensor.nbytes for tensor in tensors if tensor.dtype == torch.bfloat16 and not tensor.is_meta)
