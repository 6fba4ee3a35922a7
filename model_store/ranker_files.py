"""A ranker on disk: its config, and its state dict."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file

from model_store.encoder_files import multiplies_bfloat16
from model_store.module_files import built_empty, fill, read_config, read_tensors, state_to_save
from model_store.ranker import InterpolatedRanker
from model_store.rankers import RankerConfig

CONFIG = "ranker/config.json"
WEIGHTS = "ranker/weights.safetensors"
GOLDEN = "ranker/golden.safetensors"
NEEDED = (CONFIG, WEIGHTS, GOLDEN)
_RANKER: TypeAdapter[RankerConfig] = TypeAdapter(RankerConfig)


def write_ranker(ranker: InterpolatedRanker, folder: Path) -> None:
    """Into the bundle folder `folder`. Tokens that the ranker reads are part of its weights."""
    (folder / "ranker").mkdir()
    (folder / CONFIG).write_text(ranker.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    save_file(state_to_save(ranker), folder / WEIGHTS)


def read_ranker_config(folder: Path) -> RankerConfig:
    return read_config(folder / CONFIG, _RANKER, CONFIG)


def build_empty_ranker(folder: Path) -> InterpolatedRanker | None:
    """The ranker that config.json describes, without memory; None where the bundle has none."""
    return built_empty(read_ranker_config(folder).build, CONFIG) if (folder / CONFIG).exists() else None


def read_ranker(folder: Path, *, device: str = "cpu") -> InterpolatedRanker | None:
    """As `read_encoder`; None where the bundle has no ranker."""
    ranker = build_empty_ranker(folder)
    if ranker is None:
        return None
    fill(ranker, read_tensors(folder / WEIGHTS), weights_name=WEIGHTS, config_name=CONFIG, device=device)
    if not multiplies_bfloat16(torch.device(device)):
        ranker.compute_in(torch.float32)
    return ranker
