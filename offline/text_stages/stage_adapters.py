"""Adapters of stages that follow one another, each trained on the base with the earlier ones merged into it.

Together they are one adapter of the base that everybody has: the sum of k products B A of rank r is a product of rank
k r, so what is served, and what PEFT reads, is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from model_store.encoders.decoder import cast_decoder
from offline.language.language_models import DTYPES, LanguageModel, adapter_tensors, set_adapter_tensors


@dataclass(frozen=True, slots=True, eq=False)
class StageAdapter:
    """tensors: PEFT's state, float32 on the CPU; each weight gains scaling * B A."""

    scaling: float
    tensors: Mapping[str, Tensor]

    @property
    def rank(self) -> int:
        return next(len(tensor) for name, tensor in self.tensors.items() if ".lora_A." in name)


def take_adapter(adapted: PeftModel) -> StageAdapter:
    """A copy, so that what is adapted may go."""
    config = adapted.peft_config["default"]
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in adapter_tensors(adapted).items()}
    return StageAdapter(config.lora_alpha / config.r, tensors)


def combined(settings: LanguageModel, adapters: Sequence[StageAdapter]) -> PeftModel:
    """One adapter that does what all of them do, on the base as it was published, in float32."""
    rank = sum(adapter.rank for adapter in adapters)
    one = settings.model_copy(update={"rank": rank, "alpha": rank})
    fresh = one.with_adapters(settings.open(dtype=torch.float32).lm)
    set_adapter_tensors(fresh, {name: _joined(name, adapters) for name in adapters[0].tensors})
    return fresh


def merged(settings: LanguageModel, adapted: PeftModel) -> PreTrainedModel:
    """The float32 base with this adapter, cast once to the dtype that is served. Leaves `adapted` as it is."""
    config = adapted.peft_config["default"]
    return settings.model_copy(update={"rank": config.r, "alpha": config.lora_alpha}).merged(adapted)


def staged_decoder(settings: LanguageModel, adapters: Sequence[StageAdapter]) -> PreTrainedModel:
    """What the next stage trains on: all adapters merged in float32, cast to what training computes in."""
    lm: PreTrainedModel = combined(settings, adapters).merge_and_unload().eval()
    cast_decoder(lm, DTYPES[settings.dtype])
    return lm


def _joined(name: str, adapters: Sequence[StageAdapter]) -> Tensor:
    """A [r, in] one above another; scaling * B [out, r] side by side."""
    if ".lora_A." in name:
        return torch.cat([adapter.tensors[name] for adapter in adapters])
    return torch.cat([adapter.scaling * adapter.tensors[name] for adapter in adapters], dim=1)
