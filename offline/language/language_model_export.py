"""From a trained language-model objective to the parts that a bundle holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from model_store import base_models
from model_store.encoder_files import multiplies_bfloat16
from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import LanguageModelEncoder
from model_store.staging import BundleParts
from offline.finishing.golden_histories import golden_histories
from offline.gating.gated_export import gated_as_served, save_gated_adapter
from offline.language.language_models import LanguageModel, save_adapter
from offline.splits.sequences import SequenceDataset
from offline.text_stages.stage_adapters import StageAdapter, combined, merged, take_adapter


def language_model_parts(
    family: str,
    dataset: SequenceDataset,
    encoder: LanguageModelEncoder,
    *,
    item_vectors_ND: Tensor,
    settings: LanguageModel,
    adapted: PeftModel | None,
    base: base_models.BaseModel,
    adapter_folder: Path,
    before: Sequence[StageAdapter] = (),
) -> BundleParts:
    """encoder: as trained, its item inputs up to date. What is served has the adapters merged in float32, cast once.

    adapted: None where the encoder's LoRA is gated, and served as it is.
    before: adapters of earlier stages, which the base that was trained on holds already. The one that is saved then
    stands for all stages together, so that it still fits the base that everybody has.
    """
    if adapted is None:
        assert not before, "gates are served beside the published base, which no stage has changed"
        served, adapter = gated_as_served(encoder, settings), save_gated_adapter(encoder, settings, adapter_folder)
    else:
        one = combined(settings, [*before, take_adapter(adapted)]) if before else adapted
        served = _with_decoder(encoder, merged(settings, one))
        adapter = save_adapter(one, adapter_folder)
    return BundleParts(
        family=family,
        catalog=dataset.catalog,
        encoder=served,
        item_vectors_ND=item_vectors_ND.detach().float().cpu().clone(),
        golden_histories=golden_histories(dataset.train),
        controls=_controls(served, settings),
        adapter=adapter,
        tokenizer=base.tokenizer_file,
        base=base.identity,
    )


def _with_decoder(encoder: LanguageModelEncoder, lm: PreTrainedModel) -> LanguageModelEncoder:
    """The same encoder around another decoder, without gates; everything else is copied."""
    config = encoder.config.model_copy(update={"dtype": str(lm.dtype).removeprefix("torch."), "gated_lora": None})
    made = config.build(lm)
    left = ("lm.", "gated_lora.", "gate_sequence.")
    ours = {name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith(left)}
    missing, unexpected = made.load_state_dict(ours, strict=False)
    assert not unexpected
    assert all(name.startswith("lm.") for name in missing)
    return made.eval().requires_grad_(False)


def _controls(served: LanguageModelEncoder, settings: LanguageModel) -> Mapping[str, Callable[[HistoryBatch], Tensor]]:
    """The encode without one of its parts: the golden queries must notice each."""

    def without_adapter(histories: HistoryBatch) -> Tensor:
        return _encode(_with_decoder(served, settings.open(dtype=served.lm.dtype).lm), histories)

    def without_gate(histories: HistoryBatch) -> Tensor:
        stripped = deepcopy(served)
        stripped.gated_lora.make_constant(torch.full((stripped.gated_lora.config.experts,), 1.0))
        return _encode(stripped, histories)

    def without_projector(histories: HistoryBatch) -> Tensor:
        stripped = deepcopy(served)
        for module in stripped.head.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.weight)
        return _encode(stripped, histories)

    def without_item_table(histories: HistoryBatch) -> Tensor:
        stripped = deepcopy(served)
        table = stripped.item_inputs if stripped.config.item_input != "tokens" else stripped.token_inputs
        table.zero_()
        return _encode(stripped, histories)

    controls = {"adapter": without_adapter, "projector": without_projector, "item table": without_item_table}
    return controls | ({} if served.config.gated_lora is None else {"gate": without_gate})


@torch.inference_mode()
def _encode(encoder: LanguageModelEncoder, histories: HistoryBatch) -> Tensor:
    """In what the golden queries are recorded in, else the two would differ by rounding: as if a part were missing."""
    if not multiplies_bfloat16(encoder.scale.device):
        encoder.compute_in(torch.float32)
    vectors_BD: Tensor = encoder(histories)
    return vectors_BD
