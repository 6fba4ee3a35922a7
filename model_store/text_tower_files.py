"""A text tower on disk: its config, its weights, and the proof that it still reads as it did."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cosine_similarity

from model_store.encoder_files import multiplies_bfloat16
from model_store.errors import BundleRefused
from model_store.golden import TOLERANCES
from model_store.module_files import built_empty, fill, read_config, read_tensors, state_to_save
from model_store.text_tower import TextTower, TextTowerConfig

CONFIG = "item_text/config.json"
WEIGHTS = "item_text/weights.safetensors"
TOKENIZER = "tokenizer.json"
NEEDED = (CONFIG, WEIGHTS, TOKENIZER)
AS_TRAINED = 0.98  # cosine of an item's vector with what the tower, merged and cast, makes of its text
_TOWER = TypeAdapter(TextTowerConfig)


def write_text_tower(tower: TextTower, folder: Path, *, item_vectors_ND: Tensor) -> list[str]:
    """Into the bundle folder, whose tokenizer.json is there. Returns what is to be said against it."""
    (folder / "item_text").mkdir()
    (folder / CONFIG).write_text(tower.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    save_file(state_to_save(tower), folder / WEIGHTS)
    as_served = read_text_tower(folder, replay=False)
    assert as_served is not None
    golden_GD = as_served.encode_texts(tower.config.golden_texts)
    save_file({**state_to_save(tower), "golden_GD": golden_GD.contiguous()}, folder / WEIGHTS)
    if not len(golden_GD):
        return []
    worst = float(cosine_similarity(golden_GD, item_vectors_ND[list(tower.config.golden_rows)]).min())
    said = f"The text tower puts an item elsewhere than training did: cosine {worst:.3f}."
    return [] if worst >= AS_TRAINED else [said]


def read_text_tower_config(folder: Path) -> TextTowerConfig | None:
    """None where the bundle has none; BundleRefused for one that is incomplete."""
    if not (folder / CONFIG).exists():
        return None
    for name in NEEDED:
        if not (folder / name).exists():
            raise BundleRefused(f"{name} is missing")
    return read_config(folder / CONFIG, _TOWER, CONFIG)


def read_text_tower(folder: Path, *, device: str = "cpu", replay: bool = True) -> TextTower | None:
    """As `read_encoder`; None where the bundle has none. replay: its golden texts, too."""
    config = read_text_tower_config(folder)
    if config is None:
        return None
    tower = built_empty(config.build, CONFIG)
    fill(tower, read_tensors(folder / WEIGHTS), weights_name=WEIGHTS, config_name=CONFIG, device=device)
    if not multiplies_bfloat16(torch.device(device)):
        tower.compute_in(torch.float32)
    try:
        tower.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the only class that tokenizers raises
        raise BundleRefused(f"{TOKENIZER}: {error}") from error
    tower.tokenizer.no_truncation()
    tower.tokenizer.no_padding()
    if replay:
        _replay(tower)
    return tower


def _replay(tower: TextTower) -> None:
    if not tower.config.golden_texts:
        return
    try:
        vectors_GD = tower.encode_texts(tower.config.golden_texts)
    except (IndexError, RuntimeError) as error:  # a tokenizer of another vocabulary
        raise BundleRefused(f"{WEIGHTS} does not fit {TOKENIZER}: {error}") from error
    worst = float((1 - cosine_similarity(vectors_GD, tower.golden_GD.cpu())).max())
    if not worst <= TOLERANCES[tower.config.dtype].cosine:
        raise BundleRefused(f"{WEIGHTS}: golden texts are placed elsewhere than when the bundle was made ({worst:.1e})")
