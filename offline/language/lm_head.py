"""The head of a base language model, which decoders are opened without: from states to tokens."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from model_store.base_files import base_folder
from model_store.base_models import BaseModel as Base
from offline.language.language_models import LanguageModel

# What stock heads do beyond one product.
_NOT_SUPPORTED = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")


@torch.no_grad()
def lm_head(settings: LanguageModel, base: Base) -> Tensor:
    """[V, H] in the decoder's dtype: logits are states @ head.T. The token table where the two are tied.

    ValueError for a head that does more than that. The random control has no head of its own: its token table is taken.
    """
    for name in _NOT_SUPPORTED:
        if base.config.get(name) is not None:
            raise ValueError(f"{settings.base} has a head with {name}: no stage can read it here")
    # A stored head is the one to read even where the config calls the two tied: transformers does the same.
    stored_VH = None if settings.random_init else _stored_head(base_folder(settings.base))
    if stored_VH is None and not (base.config.get("tie_word_embeddings", True) or settings.random_init):
        raise ValueError(f"{settings.base} has neither a head of its own nor one tied to its token table")
    head_VH = next(base.embedding.parameters()) if stored_VH is None else stored_VH
    return head_VH.detach().to(base.lm.dtype)


def _stored_head(folder: Path) -> Tensor | None:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            if "lm_head.weight" in opened.keys():  # noqa: SIM118 - not a mapping
                return opened.get_tensor("lm_head.weight")  # type: ignore[no-any-return]
    return None


def truncated(settings: LanguageModel) -> bool:
    """Whether layers are left out, and the head therefore reads states that it was never trained on."""
    config = json.loads((base_folder(settings.base) / "config.json").read_text(encoding="utf-8"))
    return settings.keep_layers < int(config["num_hidden_layers"])
