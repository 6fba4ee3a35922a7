"""Opening a base: kept layers, the random control, identity, text vectors; and the real SmolLM2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
)

from model_store.base_models import BaseModel, encode_texts_mean, open_base
from model_store.encoders.decoder import read_row
from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import AllPositionsLanguageModelEncoder, LanguageModelConfig, encoder_on
from model_store.encoders.packed_attention import Packed
from model_store.errors import BaseModelRefused
from model_store.token_blocks import compact_vocabulary, tokenize_blocks

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 26,
    "initializer_range": 0.2,
}
TEXTS = ["a b c", "d", "e f g h a b", "z y", "c b a"]


def _saved(config: PreTrainedConfig, folder: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    letters = Tokenizer(models.WordLevel({chr(97 + i): i for i in range(26)}, unk_token="z"))
    letters.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    letters.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _saved(LlamaConfig(**TINY), tmp_path_factory.mktemp("llama"))


def _whole(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).model.eval()


@torch.no_grad()
@pytest.mark.parametrize("keep_layers", [None, 1, 3])
def test_kept_layers_are_the_first_ones_with_the_final_norm(llama_folder: Path, keep_layers: int | None) -> None:
    base = open_base(str(llama_folder), keep_layers=keep_layers, dtype=torch.float32)
    stock = _whole(llama_folder)
    kept = keep_layers or 4
    stock.layers = stock.layers[:kept]
    stock.config.num_hidden_layers = kept
    assert base.config["num_hidden_layers"] == len(base.lm.layers) == kept
    tokens = torch.tensor([3, 1, 4, 1, 5])
    states_SH = read_row(base.lm, base.embedding(tokens), torch.arange(5), Packed([5]))
    torch.testing.assert_close(states_SH, stock(tokens[None]).last_hidden_state[0])


def test_lists_with_an_entry_per_layer_are_cut(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention"] * 2
    folder = _saved(Gemma3TextConfig(**TINY, layer_types=kinds, sliding_window=4, query_pre_attn_scalar=8), tmp_path)
    base = open_base(str(folder), keep_layers=3, dtype=torch.float32)
    assert base.config["layer_types"] == kinds[:3]


def test_the_identity_is_of_the_whole_base(llama_folder: Path, tmp_path: Path) -> None:
    opened = [
        open_base(str(llama_folder), dtype=torch.float32),
        open_base(str(llama_folder), keep_layers=1, dtype=torch.bfloat16),
    ]
    assert len({base.identity for base in opened}) == 1
    other = _saved(LlamaConfig(**TINY | {"initializer_range": 0.1}), tmp_path)
    assert open_base(str(other), dtype=torch.float32).identity != opened[0].identity


def test_the_config_names_no_file_and_builds_the_same_encoder(llama_folder: Path) -> None:
    base = open_base(str(llama_folder), keep_layers=2, dtype=torch.float32)
    assert str(llama_folder) not in str(base.config)
    config = LanguageModelConfig(
        lm=base.config, items=5, dim=6, max_history=8, jump=2, item_input="tokens", prefix=(1, 2)
    )
    items = compact_vocabulary(tokenize_blocks(base.tokenizer_file, TEXTS))
    encoder = encoder_on(config, base, items=items)
    rebuilt = encoder.config.build()
    rebuilt.load_state_dict(encoder.state_dict())
    histories = HistoryBatch.of([[0, 1, 4], [2], [3, 3]])
    with torch.no_grad():
        assert torch.equal(encoder(histories), rebuilt.eval()(histories))
        # What it reads is what the stock model reads for the tokens spelled out: prefix, then the items' texts.
        stock = _whole(llama_folder)
        stock.layers = stock.layers[:2]
        stock.config.num_hidden_layers = 2
        letters = [1, 2, *(ord(letter) - 97 for item in (0, 1, 4) for letter in TEXTS[item].split())]
        expected = stock(torch.tensor([letters])).last_hidden_state[0, -1]
        torch.testing.assert_close(encoder.final_read_outs(histories)[0], expected)


def test_random_weights_are_those_of_the_seed(llama_folder: Path) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (
        open_base(str(llama_folder), dtype=torch.float32, random_init_seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    pretrained = open_base(str(llama_folder), dtype=torch.float32)
    assert first.identity == again.identity
    assert len({base.identity for base in (first, other, pretrained)}) == 3
    assert first.config == pretrained.config
    assert not torch.equal(first.lm.layers[0].mlp.up_proj.weight, pretrained.lm.layers[0].mlp.up_proj.weight)


@torch.no_grad()
def test_text_vectors_are_means_over_each_texts_tokens(llama_folder: Path) -> None:
    base = open_base(str(llama_folder), dtype=torch.float32)
    blocks = tokenize_blocks(base.tokenizer_file, TEXTS)
    seen: list[tuple[int, int]] = []
    vectors_NH = encode_texts_mean(base, blocks, token_budget=7, progress=lambda done, of: seen.append((done, of)))
    stock = _whole(llama_folder)
    for text, vector_H in zip(TEXTS, vectors_NH, strict=True):
        tokens = torch.tensor([[ord(letter) - 97 for letter in text.split()]])
        torch.testing.assert_close(vector_H, stock(tokens).last_hidden_state[0].mean(0), atol=2e-6, rtol=1e-5)
    assert seen == [(3, 5), (4, 5), (5, 5)]


def test_a_text_without_tokens_is_refused(llama_folder: Path) -> None:
    base = open_base(str(llama_folder), dtype=torch.float32)
    with pytest.raises(ValueError, match="text 1 has no tokens"):
        encode_texts_mean(base, tokenize_blocks(base.tokenizer_file, ["a", "", "b"]))


@pytest.mark.parametrize("keep_layers", [0, 5, -1])
def test_layers_that_are_not_there_are_refused(llama_folder: Path, keep_layers: int) -> None:
    with pytest.raises(BaseModelRefused, match="the model has 4 layers"):
        open_base(str(llama_folder), keep_layers=keep_layers, dtype=torch.float32)


def test_gemma2_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = _saved(Gemma2Config(**TINY, query_pre_attn_scalar=8), tmp_path)
    with pytest.raises(BaseModelRefused, match="softcap"):
        open_base(str(folder), dtype=torch.float32)


def test_a_window_is_checked_past_its_end(tmp_path: Path) -> None:
    folder = _saved(MistralConfig(**TINY, sliding_window=4096), tmp_path)
    assert open_base(str(folder), dtype=torch.float32).config["sliding_window"] == 4096


def test_remote_code_is_never_run(llama_folder: Path, tmp_path: Path) -> None:
    config = (llama_folder / "config.json").read_text().replace('"model_type": "llama"', '"model_type": "mine"')
    (tmp_path / "config.json").write_text(config.replace("{", '{"auto_map": {"AutoConfig": "evil.Config"},', 1))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(llama_folder / name)
    with pytest.raises(BaseModelRefused):
        open_base(str(tmp_path), dtype=torch.float32)
    assert not (tmp_path / "ran").exists()


def test_a_missing_tensor_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    config = (llama_folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"num_hidden_layers": 4', '"num_hidden_layers": 5'))
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(llama_folder / name)
    with pytest.raises(BaseModelRefused, match=r"lacks the tensors .*layers\.4"):
        open_base(str(tmp_path), dtype=torch.float32)


@pytest.fixture(scope="module")
def smollm2() -> BaseModel:
    try:
        return open_base("smollm2-135m", keep_layers=3, dtype=torch.float32)
    except BaseModelRefused as refused:
        pytest.skip(f"SmolLM2 CANNOT BE HAD HERE, so nothing was tested on a real model: {refused}")


@pytest.mark.slow
@torch.no_grad()
def test_the_real_smollm2(smollm2: BaseModel) -> None:
    """Means of related films lie nearer than those of others; an encoder on it grows and reads all positions."""
    texts = [
        " Toy Story (1995) | Animation, Children's, Comedy\n",
        " Aladdin (1992) | Animation, Children's, Comedy\n",
        " The Silence of the Lambs (1991) | Drama, Thriller\n",
        " Seven (1995) | Crime, Thriller\n",
    ]
    blocks = tokenize_blocks(smollm2.tokenizer_file, texts, max_tokens=48)
    centred_NH = encode_texts_mean(smollm2, blocks)
    centred_NH = torch.nn.functional.normalize(centred_NH - centred_NH.mean(0), dim=1)
    similar = centred_NH @ centred_NH.T
    assert min(similar[0, 1], similar[2, 3]) > max(similar[0, 2], similar[0, 3], similar[1, 2], similar[1, 3])
    assert smollm2.input_std == pytest.approx(0.1356, abs=0.002)

    config = LanguageModelConfig(
        lm=smollm2.config, items=4, dim=64, max_history=20, jump=5, item_input="tokens", prefix=(13629, 686)
    )
    encoder = encoder_on(config, smollm2, items=compact_vocabulary(blocks)).eval()
    assert isinstance(encoder, AllPositionsLanguageModelEncoder)
    assert len(encoder.token_inputs) < 60
    histories = HistoryBatch.of([[0, 1, 2], [3], [2, 2, 0, 1, 3, 1]])
    vectors_BD = encoder(histories)
    one_by_one = torch.cat([encoder(histories.select([b])) for b in range(3)])
    torch.testing.assert_close(vectors_BD, one_by_one, atol=2e-5, rtol=1e-4)
    last_T = (histories.offsets[1:] - 1).tolist()
    torch.testing.assert_close(encoder.forward_positions(histories)[last_T], vectors_BD, atol=2e-5, rtol=1e-4)
    states = encoder.extend([None] * 3, HistoryBatch.of([[0, 1], [3], [2]])).states
    grown = encoder.extend([states[0], None, states[2]], HistoryBatch.of([[2], [3], [2, 0, 1, 3, 1]]))
    torch.testing.assert_close(grown.vectors_BD, vectors_BD, atol=2e-5, rtol=1e-4)
