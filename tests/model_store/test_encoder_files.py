from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from model_store.encoder_files import ITEM_TOKENS, WEIGHTS, read_encoder, read_tensors, write_encoder
from model_store.encoders.sequence import SequenceConfig, SequenceEncoder
from model_store.errors import BundleRefused

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
