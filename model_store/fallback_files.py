"""A light encoder beside the bundle's own, in the same item space: what answers when there is no time for that one.

Its folder is as optional as a placer's: a bundle without one loads as before, and half of one is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from pydantic import AfterValidator, TypeAdapter
from safetensors.torch import save_file

from model_store.encoders import EncoderConfig
from model_store.encoders.appended import AppendedConfig
from model_store.encoders.fused import FusedConfig
from model_store.encoders.history import HistoryBatch, QueryEncoder
from model_store.encoders.language_model import LanguageModelConfig
from model_store.errors import BundleRefused
from model_store.golden import TOLERANCES, GoldenQueries, choose
from model_store.item_index import ItemIndex
from model_store.module_files import built_empty, fill, read_config, read_tensors, state_to_save

FOLDER = "fallback"
CONFIG = "fallback/config.json"
WEIGHTS = "fallback/weights.safetensors"
GOLDEN = "fallback/golden.safetensors"
NEEDED = (CONFIG, WEIGHTS, GOLDEN)


def reads_with_language_model(config: object) -> bool:
    if isinstance(config, AppendedConfig):
        return reads_with_language_model(config.inner)
    if isinstance(config, FusedConfig):
        return any(map(reads_with_language_model, config.parts))
    return isinstance(config, LanguageModelConfig)


def _light(config: EncoderConfig) -> EncoderConfig:
    if reads_with_language_model(config):
        raise ValueError("a language model is no light encoder")
    return config


_LIGHT: TypeAdapter[EncoderConfig] = TypeAdapter(Annotated[EncoderConfig, AfterValidator(_light)])


def check_fallback(encoder: QueryEncoder, *, items: int, dim: int) -> None:
    """ValueError unless it is light and speaks of the same items in vectors of the same length, in float32."""
    config = encoder.config
    if reads_with_language_model(config):
        raise ValueError("the fallback is a language model: it is no lighter than what it stands in for")
    found = (getattr(config, "items", None), encoder.dim)
    if found != (items, dim):
        raise ValueError(f"the fallback knows {found[0]} items in {found[1]} numbers, not {items} in {dim}")
    if any(tensor.dtype != torch.float32 for tensor in encoder.state_dict().values() if tensor.is_floating_point()):
        raise ValueError("the fallback's weights are not all float32")


def write_fallback(encoder: QueryEncoder, histories: HistoryBatch, folder: Path, *, index: ItemIndex) -> None:
    """Config, weights, and golden queries of what the files give back, into the bundle folder `folder`.

    histories: whole ones, of all lengths.
    """
    (folder / FOLDER).mkdir()
    (folder / CONFIG).write_text(encoder.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    save_file(state_to_save(encoder), folder / WEIGHTS)
    read = read_fallback(folder)
    assert read is not None
    windowed = histories.windowed(read.max_history, read.jump)
    with torch.inference_mode():
        vectors_QD = read(windowed).float()
    chosen = choose(windowed, vectors_QD, controls={}, tolerances=TOLERANCES["float32"])
    GoldenQueries.record(read, index, windowed.select(chosen)).write(folder, GOLDEN)
    replay_fallback(read, index, folder)


def read_fallback(folder: Path, *, device: str = "cpu") -> QueryEncoder | None:
    """None where the bundle has none. BundleRefused when config and tensors do not fit each other exactly."""
    if not (folder / CONFIG).exists():
        return None
    encoder = built_empty(read_config(folder / CONFIG, _LIGHT, CONFIG).build, CONFIG)
    return fill(encoder, read_tensors(folder / WEIGHTS), weights_name=WEIGHTS, config_name=CONFIG, device=device)


def replay_fallback(encoder: QueryEncoder, index: ItemIndex, folder: Path) -> None:
    """BundleRefused unless it answers as it did when the bundle was made."""
    GoldenQueries.read(folder, GOLDEN).replay(encoder, index, tolerances=TOLERANCES["float32"], name=GOLDEN)


def verify_fallback(folder: Path, *, items: int, dim: int) -> None:
    """Of what checksums cannot know: whole or not there, light, and about the same items. Not that it is finite."""
    if not (folder / FOLDER).exists():
        return
    for name in NEEDED:
        if not (folder / name).exists():
            raise BundleRefused(f"{name} is missing")
    config = read_config(folder / CONFIG, _LIGHT, CONFIG)
    if (config.items, config.dim) != (items, dim):
        raise BundleRefused(f"{CONFIG}: {config.items} items in {config.dim} numbers, not {items} in {dim}")
