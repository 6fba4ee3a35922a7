"""The PEFT adapter beside a merged encoder: for further training, and of no use when it does not fit."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

_LORA = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_[AB](?:\.\w+)?\.weight")


def check_adapter(folder: Path, encoder: nn.Module) -> None:
    """ValueError unless every LoRA key finds a module of the encoder's LM, and the reverse.

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
    present = {_tail(name) for name, _ in getattr(encoder, "lm", encoder).named_modules()}
    if strange := adapted - present:
        raise ValueError(f"{file.name}: {min(strange)} is no module of the encoder")
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("layers_to_transform") is None:
        kinds = {name.rpartition(".")[2] for name in adapted}
        if left := {name for name in present if name.rpartition(".")[2] in kinds} - adapted:
            raise ValueError(f"{file.name} holds nothing for {min(left)}")


def _tail(module: str) -> str:
    """A module's name from its layer on: whether a causal LM or its inner model was adapted does not matter."""
    return module[module.find("layers.") :] if "layers." in module else module
