from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model_store.encoder_files import read_encoder, write_encoder
from model_store.encoders.appended import AppendedConfig
from model_store.encoders.history import AllPositions, Growing, HistoryBatch
from model_store.encoders.language_model import LanguageModelConfig
from model_store.encoders.sequence import SequenceConfig
from model_store.encoders.weighted_sum import WeightedSumConfig
from model_store.golden import encode_paths

LM = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 8,
}
READER = LanguageModelConfig(lm=LM, items=12, dim=5, max_history=9, jump=3, item_input="vector")
INNER: dict[str, SequenceConfig | WeightedSumConfig | LanguageModelConfig] = {
    "sequence": SequenceConfig(items=12, dim=4, blocks=1, heads=1, max_history=9, jump=3),
    "sum": WeightedSumConfig(items=12, dim=3, max_history=9, jump=3, decay_items=2.0),
    "reader": READER,
    "asker": READER.model_copy(update={"suffix": (1, 2)}),
}
HISTORIES = HistoryBatch.of([[1], [3, 4, 5], [n % 12 for n in range(9)]])


@pytest.mark.parametrize("kind", INNER)
def test_it_can_what_its_inner_encoder_can_and_every_path_agrees(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inner = INNER[kind].build().eval()
    encoder = AppendedConfig(inner=INNER[kind], coordinates=2).build(inner).eval()
    for capability in (AllPositions, Growing):
        assert isinstance(encoder, capability) == isinstance(inner, capability)
    with torch.inference_mode():
        expected = torch.cat((inner(HISTORIES), torch.ones(3, 2)), dim=1)
        for path, vectors_BD in encode_paths(encoder, HISTORIES):
            torch.testing.assert_close(vectors_BD, expected, rtol=1e-4, atol=1e-5, msg=path)
        write_encoder(encoder, tmp_path)
        read = read_encoder(tmp_path)
        assert type(read) is type(encoder)
        torch.testing.assert_close(read(HISTORIES), expected)
    assert (read.dim, read.max_history, read.jump) == (inner.dim + 2, 9, 3)
