"""An encoder on disk: its config, its state dict, and the token table of its items in a file of their own."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file

from model_store.encoders import EncoderConfig
from model_store.encoders.history import QueryEncoder
from model_store.encoders.language_model import LanguageModelEncoder
from model_store.module_files import built_empty, fill, read_config, read_tensors, state_to_save

CONFIG = "encoder/config.json"
WEIGHTS = "encoder/weights.safetensors"
ITEM_TOKENS = "item_tokens.safetensors"
TOKEN_TABLE = {"tokens": "item_tokens.tokens", "offsets": "item_tokens.offsets"}  # name in the file -> in the state
_ENCODER: TypeAdapter[EncoderConfig] = TypeAdapter(EncoderConfig)


def write_encoder(encoder: QueryEncoder, folder: Path) -> None:
    """Writes config, weights and, where the encoder has one, the token table, into the bundle folder `folder`."""
    (folder / "encoder").mkdir()
    (folder / CONFIG).write_text(encoder.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    state = state_to_save(encoder)
    table = {short: state.pop(name) for short, name in TOKEN_TABLE.items() if name in state}
    save_file(state, folder / WEIGHTS)
    if table:
        save_file(table, folder / ITEM_TOKENS)


def read_encoder_config(folder: Path) -> EncoderConfig:
    return read_config(folder / CONFIG, _ENCODER, CONFIG)


def build_empty(folder: Path) -> QueryEncoder:
    """The encoder that config.json describes, on the meta device: without memory. BundleRefused when there is none.

    The first encoder of a kind imports what it needs: transformers, for a language model, which takes seconds.
    """
    return built_empty(read_encoder_config(folder).build, CONFIG)


def read_encoder(folder: Path, *, device: str = "cpu") -> QueryEncoder:
    """Builds the encoder without initialising it, and gives it the tensors of the files, in memory of its own.

    BundleRefused when config and tensors do not fit each other exactly.
    """
    encoder = build_empty(folder)
    state = read_tensors(folder / WEIGHTS)
    if (folder / ITEM_TOKENS).exists():
        state |= {TOKEN_TABLE[short]: tensor for short, tensor in read_tensors(folder / ITEM_TOKENS).items()}
    fill(encoder, state, weights_name=WEIGHTS, config_name=CONFIG, device=device)
    suit(encoder, device)
    return encoder


def suit(encoder: QueryEncoder, device: str) -> None:
    """Language models, also nested ones, compute in what is fast there; their configs keep saying what is stored."""
    if not multiplies_bfloat16(torch.device(device)):
        for module in encoder.modules():
            if isinstance(module, LanguageModelEncoder):
                module.compute_in(torch.float32)


def as_stored(encoder: QueryEncoder) -> None:
    """Undoes `suit`, without loss: for an encoder that was read and is to be written again, whole or as a part."""
    for module in encoder.modules():
        if isinstance(module, LanguageModelEncoder):
            module.compute_in(getattr(torch, module.config.dtype))


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there. A CPU without AVX512-BF16 or AMX emulates it, ten times slower."""
    if device.type != "cpu":
        return True
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
