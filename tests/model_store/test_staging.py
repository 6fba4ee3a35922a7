from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import faiss
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from model_store.adapter import check_adapter
from model_store.bundle import Bundle
from model_store.encoders.gated_lora import GatedLinear, GatedLora, GatedLoraConfig, GateSwitch
from model_store.encoders.history import HistoryBatch
from model_store.encoders.sequence import SequenceConfig
from model_store.manifest import Provenance
from model_store.staging import BundleParts
from model_store.store import ModelStore

TinyParts = Callable[..., BundleParts]


def test_files_as_the_architecture_names_them(bundle_folder: Path) -> None:
    found = {str(path.relative_to(bundle_folder)) for path in bundle_folder.rglob("*") if path.is_file()}
    assert found == {
        "manifest.json",
        "manifest.sha256",
        "encoder/config.json",
        "encoder/weights.safetensors",
        "items.parquet",
        "items.faiss",
        "golden.safetensors",
    }
    assert type(faiss.read_index(str(bundle_folder / "items.faiss"))) is faiss.IndexFlatIP
    assert json.loads((bundle_folder / "encoder/config.json").read_text())["kind"] == "sequence"


def test_every_file_may_be_read_by_whom_the_umask_allows(bundle_folder: Path) -> None:
    beside = bundle_folder.parent / "beside"
    beside.touch()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in bundle_folder.rglob("*") if path.is_file()}
    assert set(modes.values()) == {stat.S_IMODE(beside.stat().st_mode)}, modes


def test_a_part_that_nothing_notices_is_told(store: ModelStore, tiny_parts: TinyParts, provenance: Provenance) -> None:
    parts = tiny_parts()

    def same(histories: HistoryBatch) -> Tensor:
        vectors_BD: Tensor = parts.encoder(histories)
        return vectors_BD * (1 + 1e-7)

    staged = store.stage(replace(parts, controls={**parts.controls, "adapter": same}), provenance=provenance)
    assert staged.manifest.warnings == ["The golden queries do not notice when the adapter is missing."]
    staged.discard()


def test_tokenizer_and_adapter_come_along(
    store: ModelStore, tiny_parts: TinyParts, provenance: Provenance, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    encoder = tiny_parts().encoder
    encoder.lm = tiny_llama(layers=2)  # any module of this name is what an adapter belongs to
    save_adapter(tmp_path / "adapter", layers=2)
    check_adapter(tmp_path / "adapter", encoder)
    with pytest.raises(ValueError, match="is no module of the encoder"):
        store.stage(replace(tiny_parts(), adapter=tmp_path / "adapter"), provenance=provenance)
    version = store.publish(
        store.stage(replace(tiny_parts(), tokenizer=tmp_path / "tokenizer.json"), provenance=provenance)
    )
    assert (store.folder(version) / "tokenizer.json").read_text() == "{}"
    store.verify(version)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"item_vectors_ND": torch.zeros(39, 8)}, r"\(39, 8\), not \(40, 8\)"),
        ({"item_vectors_ND": torch.zeros(40, 7)}, r"\(40, 7\), not \(40, 8\)"),
        ({"item_vectors_ND": torch.zeros(40, 8).half()}, "float16, not float32"),
        ({"item_vectors_ND": torch.full((40, 8), torch.nan)}, "item vector is not finite"),
        ({"golden_histories": HistoryBatch.of([])}, "golden histories are needed"),
        ({"golden_histories": HistoryBatch.of([[1], []])}, "none may be empty"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    store: ModelStore, tiny_parts: TinyParts, provenance: Provenance, change: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        store.stage(replace(tiny_parts(), **change), provenance=provenance)  # type: ignore[arg-type]  # mixed types


def test_a_weight_that_is_not_finite_is_refused(
    store: ModelStore, tiny_parts: TinyParts, provenance: Provenance
) -> None:
    parts = tiny_parts()
    with torch.no_grad():
        parts.encoder.get_parameter("norm.weight")[0] = torch.nan
    with pytest.raises(ValueError, match=r"norm\.weight is not finite"):
        store.stage(parts, provenance=provenance)


def test_a_coarse_encoder_gets_coarse_tolerances(
    store: ModelStore, tiny_parts: TinyParts, provenance: Provenance
) -> None:
    parts = tiny_parts()
    staged = store.stage(replace(parts, encoder=parts.encoder.to(torch.bfloat16), controls={}), provenance=provenance)
    assert staged.manifest.dtype == "bfloat16"
    assert (staged.manifest.golden.cosine, staged.manifest.golden.norm) == (1e-3, 1e-2)
    assert Bundle.load(staged.folder).encoder.get_parameter("norm.weight").dtype == torch.bfloat16
    staged.discard()


def tiny_llama(layers: int) -> LlamaModel:
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return LlamaModel(config)


def save_adapter(folder: Path, *, layers: int, transformed: list[int] | None = None) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], layers_to_transform=transformed)
    model = get_peft_model(LlamaForCausalLM(tiny_llama(layers).config), config)
    assert isinstance(model, PeftModel)
    model.save_pretrained(str(folder))


@pytest.mark.parametrize(("adapted", "kept"), [(3, 2), (2, 3)])
def test_an_adapter_of_other_layers_is_refused(tmp_path: Path, adapted: int, kept: int) -> None:
    save_adapter(tmp_path / "adapter", layers=adapted)
    encoder = nn.Module()
    encoder.lm = tiny_llama(kept)
    with pytest.raises(ValueError, match=r"layers\.2\.self_attn"):
        check_adapter(tmp_path / "adapter", encoder)
    encoder.lm = tiny_llama(adapted)
    check_adapter(tmp_path / "adapter", encoder)


def test_an_adapter_of_some_layers(tmp_path: Path) -> None:
    save_adapter(tmp_path / "adapter", layers=3, transformed=[2])
    encoder = nn.Module()
    encoder.lm = tiny_llama(3)
    check_adapter(tmp_path / "adapter", encoder)


def test_a_folder_that_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no PEFT adapter"):
        check_adapter(tmp_path, nn.Module())


def test_a_gated_encoder_s_adapter_has_its_layers_and_its_rank(tmp_path: Path) -> None:
    save_adapter(tmp_path / "adapter", layers=2)  # q_proj and v_proj, rank 2
    sequence = SequenceConfig(items=4, dim=4, blocks=1, heads=1, max_history=4, jump=1)
    lm = tiny_llama(2)
    GatedLora(GatedLoraConfig(experts=2, rank=2, alpha=1, sequence=sequence), lm)
    with pytest.raises(ValueError, match="is adapted on one side only"):
        check_adapter(tmp_path / "adapter", lm)
    lm = tiny_llama(2)
    for name, module in list(lm.named_modules()):
        if name.endswith(("q_proj", "v_proj")):
            lm.set_submodule(name, GatedLinear(module, 4, GateSwitch()))
    with pytest.raises(ValueError, match=r"rank 2, .* has 4"):
        check_adapter(tmp_path / "adapter", lm)
