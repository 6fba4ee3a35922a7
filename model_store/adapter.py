"""The PEFT adapter beside an encoder: for further training, and of no use when it does not fit."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from model_store.encoders.gated_lora import gated_layers

_LORA = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_[AB](?:\.\w+)?\.weight")


def check_adapter(folder: Path, encoder: nn.Module) -> None:
    """ValueError unless every LoRA key finds a module of the encoder's LM, and the reverse.

    Where the encoder's LoRA is gated, the adapter is all experts together: the same modules, and the same rank.

    peft itself loads an adapter of 30 layers onto 6, or of 6 onto 30, without a word.
    """
    file = folder / "adapter_model.safetensors"
    if not file.is_file() or not (folder / "adapter_config.json").is_file():
        raise ValueError(f"{folder.name} is no PEFT adapter: it needs adapter_config.json and {file.name}")
    try:
        with safe_open(file, framework="pt") as opened:
            keys = list(opened.keys())
    except SafetensorError as error:
        raise ValueError(f"{file.name}: {error}") from error
    adapted = {_tail(match["module"]) for key in keys if (match := _LORA.fullmatch(key))}
    if not adapted:
        raise ValueError(f"{file.name} holds no LoRA weight")
    lm: nn.Module = getattr(encoder, "lm", encoder)
    present = {_tail(name) for name, _ in lm.named_modules()}
    if strange := adapted - present:
        raise ValueError(f"{file.name}: {min(strange)} is no module of the encoder")
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("layers_to_transform") is None:
        kinds = {name.rpartition(".")[2] for name in adapted}
        if left := {name for name in present if name.rpartition(".")[2] in kinds} - adapted:
            raise ValueError(f"{file.name} holds nothing for {min(left)}")
    _check_gated(lm, adapted, config.get("r"))


def _check_gated(lm: nn.Module, adapted: set[str], rank: int | None) -> None:
    gated = {_tail(name): layer for name, layer in gated_layers(lm).items()}
    if gated and (differs := gated.keys() ^ adapted):
        raise ValueError(f"{min(differs)} is adapted on one side only, in the adapter or in the encoder")
    for name, layer in gated.items():
        if len(layer.lora_A) != rank:
            raise ValueError(f"adapter_config.json says rank {rank}, {name} of the encoder has {len(layer.lora_A)}")


def _tail(module: str) -> str:
    """A module's name from its layer on: whether a causal LM or its inner model was adapted does not matter."""
    return module[module.find("layers.") :] if "layers." in module else module
