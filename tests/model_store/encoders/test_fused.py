from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from model_store import encoder_files
from model_store.encoder_files import as_stored, read_encoder, write_encoder
from model_store.encoders.fused import FusedConfig, FusedEncoder
from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import LanguageModelConfig, LanguageModelEncoder
from model_store.encoders.sequence import SequenceConfig
from model_store.encoders.weighted_sum import WeightedSumConfig

SEQUENCE = SequenceConfig(items=12, dim=4, blocks=1, heads=1, max_history=6, jump=2)
SUM = WeightedSumConfig(items=12, dim=3, max_history=40, jump=10, decay_items=2.0)
LM = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 8,
}
READER = LanguageModelConfig(
    lm=LM, items=12, dim=5, max_history=9, jump=3, item_input="tokens", vocabulary=8, item_tokens=24, dtype="bfloat16"
)
HISTORIES = HistoryBatch.of([[1], [3, 4, 5], [n % 12 for n in range(30)]])


def filled(config: FusedConfig) -> FusedEncoder:
    torch.manual_seed(0)
    encoder = config.build().eval()
    for module in encoder.modules():
        if isinstance(module, LanguageModelEncoder):
            module.token_inputs.normal_()
            module.item_tokens.tokens.copy_(torch.arange(24) % 8)
            module.item_tokens.offsets.copy_(torch.arange(0, 25, 2))
    return encoder


@torch.inference_mode()
def test_the_query_is_each_part_s_own_with_its_weight() -> None:
    encoder = filled(FusedConfig(parts=(SEQUENCE, SUM), weights=(2.0, -0.5)))
    assert (encoder.dim, encoder.max_history, encoder.jump) == (7, 40, 10)
    first, second = encoder.encoders
    expected = torch.cat((2 * first(HISTORIES.windowed(6, 2)), -0.5 * second(HISTORIES)), dim=1)
    torch.testing.assert_close(encoder(HISTORIES), expected)
    assert encoder.token_counts(HISTORIES) == [2, 6, 36]


@torch.inference_mode()
def test_the_score_is_the_weighted_sum_of_the_parts_scores() -> None:
    encoder = filled(FusedConfig(parts=(SEQUENCE, SUM), weights=(0.3, 0.7)))
    items = [torch.randn(12, 4), torch.randn(12, 3)]
    fused = encoder(HISTORIES) @ torch.cat(items, dim=1).T
    cut = [HISTORIES.windowed(6, 2), HISTORIES]
    parts = [part(h) @ v.T for part, h, v in zip(encoder.encoders, cut, items, strict=True)]
    torch.testing.assert_close(fused, 0.3 * parts[0] + 0.7 * parts[1])


@pytest.mark.parametrize("fast", [True, False])
def test_nested_language_models_are_written_read_and_computed_like_any(
    fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_files, "multiplies_bfloat16", lambda _device: fast)
    inner = FusedConfig(parts=(SUM, READER), weights=(1.0, 1.0))
    encoder = filled(FusedConfig(parts=(SEQUENCE, inner), weights=(1.0, 2.0)))
    (tmp_path / "a").mkdir()
    write_encoder(encoder, tmp_path / "a")
    read = read_encoder(tmp_path / "a")
    assert read.config == encoder.config
    lm = next(module for module in read.modules() if isinstance(module, LanguageModelEncoder))
    assert lm.prefix_inputs.dtype == lm.token_inputs.dtype == (torch.bfloat16 if fast else torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(read(HISTORIES), encoder(HISTORIES), rtol=0.05, atol=0.05)
    # Read, and written again: nothing is lost and nothing grows.
    as_stored(read)
    for name, tensor in encoder.state_dict().items():
        again = read.state_dict()[name]
        assert again.dtype == tensor.dtype
        assert torch.equal(again, tensor), name


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValidationError, match="2 parts have 1 weights"):
        FusedConfig(parts=(SEQUENCE, SUM), weights=(1.0,))
    with pytest.raises(ValidationError, match="numbers of items"):
        FusedConfig(parts=(SEQUENCE, SUM.model_copy(update={"items": 13})), weights=(1.0, 1.0))
    with pytest.raises(ValidationError):
        FusedConfig(parts=(SEQUENCE,), weights=(1.0,))
