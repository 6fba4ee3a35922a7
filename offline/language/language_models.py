"""Base language models in training: LoRA on a stock decoder, item text vectors, and the merge that is served."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from pydantic import BaseModel, ConfigDict, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from model_store import base_models
from model_store.encoders.decoder import cast_decoder
from model_store.token_blocks import tokenize_blocks
from offline.language.merged_lora import merge_in_forward
from offline.training.processes import measuring_device, this_process
from offline.workspace import Workspace

logger = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class LanguageModel(BaseModel):
    """Which base, how much of it, and the adapters; part of a recipe.

    text_layers: how many layers of the base, at most, make the text vectors of items (`text_vectors`); None: all. The
    end of a decoder serves the next token, its middle tells texts apart better (Skean et al., 2025, "Layer by Layer").
    dtype: what training computes in. bfloat16 halves the time where the processor multiplies it (AVX512-BF16, a GPU)
    and is ten times slower where it does not; a hyper-parameter, so code never picks it by hardware.
    served_dtype: what the merged weights are cast to, once.
    random_init: the same architecture with weights that were never trained on text, the control without which no
    sentence about a pretrained model is justified.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str = "smollm2-135m"
    keep_layers: PositiveInt = 4
    text_layers: PositiveInt | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    served_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    random_init: bool = False

    def open(self, *, dtype: torch.dtype | None = None) -> base_models.BaseModel:
        return self._open(self.keep_layers, dtype)

    def open_for_texts(self) -> base_models.BaseModel:
        """What reads item texts once, without learning: the first `text_layers`."""
        if self.text_layers is None:
            return self._open(None, None)
        return self._open(min(self.text_layers, base_models.layers_of(self.base)), None)

    def _open(self, layers: int | None, dtype: torch.dtype | None) -> base_models.BaseModel:
        return base_models.open_base(
            self.base,
            keep_layers=layers,
            dtype=dtype or DTYPES[self.dtype],
            random_init_seed=0 if self.random_init else None,
        )

    def lora_config(self, *, dropout: float = 0.0) -> LoraConfig:
        return LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=dropout, bias="none", target_modules="all-linear"
        )

    def with_adapters(self, lm: PreTrainedModel, *, dropout: float = 0.0) -> PeftModel:
        """LoRA on all linear layers, injected into `lm` in place; only the adapters train.

        They compute in the base's dtype (the optimiser holds float32 masters), without dropout, and in float32 merged
        into each forward pass: PEFT's defaults cost 2.1 x the bare forward and backward. With dropout they stay PEFT's.
        """
        config = self.lora_config(dropout=dropout)
        with warnings.catch_warnings():
            # PEFT asks transformers by a name that it deprecated; nothing that a person who trains could act on.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            adapted = get_peft_model(lm, config, autocast_adapter_dtype=False)
        adapted.peft_config["default"].base_model_name_or_path = self.base
        if dropout == 0:
            merge_in_forward(adapted)
        return adapted

    def merged(self, adapted: PeftModel) -> PreTrainedModel:
        """The adapters merged into a float32 base and cast once to the dtype that is served."""
        fresh = self.with_adapters(self.open(dtype=torch.float32).lm)
        set_adapter_tensors(fresh, adapter_tensors(adapted))
        lm: PreTrainedModel = fresh.merge_and_unload().eval()
        cast_decoder(lm, DTYPES[self.served_dtype])
        return lm


def adapter_tensors(adapted: PeftModel) -> dict[str, Tensor]:
    """Float32, by PEFT's names."""
    # "auto" would ask the hub whether the vocabulary grew; the token table is no part of what trains.
    trained = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return {name: tensor.float() for name, tensor in trained.items()}


def set_adapter_tensors(adapted: PeftModel, tensors: dict[str, Tensor]) -> None:
    result = set_peft_model_state_dict(adapted, tensors)
    if result.unexpected_keys or any("lora_" in key for key in result.missing_keys):
        raise AssertionError(f"adapter keys without a module: {result.unexpected_keys}")


def save_adapter(adapted: PeftModel, folder: Path) -> Path:
    """In PEFT's own format, without the model card that it adds. Of several processes only the main one writes."""
    if not this_process().is_main_process:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)  # "auto" would ask the hub
    (folder / "README.md").unlink(missing_ok=True)
    return folder


@dataclass(frozen=True, slots=True, eq=False)
class TextVectors:
    """unit_NH: float32 [N, H], less centre_H, the mean over the trained items, and of unit length. groups_N: trained
    items with the same number have the same text or a cosine above .99; a softmax must not call one the other's
    negative."""

    unit_NH: Tensor
    groups_N: Tensor
    centre_H: Tensor


def text_vectors(
    settings: LanguageModel, texts: list[str], *, max_tokens: int, trained_N: npt.NDArray[np.bool_]
) -> TextVectors:
    """Mean-pooled states of the base after its `text_layers`, once per (base, layers, texts), kept in the workspace.

    trained_N: which items the training split holds; centre and groups are fitted, so they see no other.

    Raw means of a language model have a median cosine of .94: they are centred before anything compares them.
    """
    base = settings.open_for_texts()
    made_of = [base.identity, settings.text_layers, settings.dtype, max_tokens, texts]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
    file = Workspace.from_environment().folder / "text_vectors" / f"{key}.safetensors"
    with this_process().main_process_first():
        if not file.exists():
            logger.info("reading the text of %d items with %s", len(texts), settings.base)
            blocks = tokenize_blocks(base.tokenizer_file, [text or "?" for text in texts], max_tokens=max_tokens)
            device = measuring_device()
            base.lm.to(device)
            base.embedding.to(device)
            raw_NH = base_models.encode_texts_mean(base, blocks)
            file.parent.mkdir(parents=True, exist_ok=True)
            fresh = file.with_suffix(f".{os.getpid()}.new")
            save_file({"raw": raw_NH}, str(fresh))
            fresh.rename(file)
    raw_NH = load_file(str(file))["raw"]
    trained = torch.from_numpy(trained_N).nonzero().flatten()
    centre_H = raw_NH[trained].mean(0)
    unit_NH = normalize(raw_NH - centre_H, dim=-1)
    groups_N = torch.arange(len(texts))
    groups_N[trained] = trained[same_text_groups(unit_NH[trained], [texts[row] for row in trained.tolist()])]
    return TextVectors(unit_NH, groups_N, centre_H)


def same_text_groups(unit_NH: Tensor, texts: list[str], *, chunk: int = 1024) -> Tensor:
    """int64 [N]: the lowest row that an item equals (same normalised text, or cosine above .99)."""
    first: dict[str, int] = {}
    groups = torch.tensor([first.setdefault(" ".join(t.lower().split()), row) for row, t in enumerate(texts)])
    for start in range(0, len(texts), chunk):
        alike = unit_NH[start : start + chunk] @ unit_NH.T > 0.99
        lowest = alike.int().argmax(dim=1)
        groups[start : start + chunk] = torch.minimum(groups[start : start + chunk], lowest)
    return groups
