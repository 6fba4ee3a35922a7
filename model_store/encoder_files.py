"""An encoder on disk: its config, its state dict, and the token table of its items in a file of their own."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model_store.encoders import EncoderConfig
from model_store.encoders.history import QueryEncoder
from model_store.encoders.language_model import LanguageModelEncoder
from model_store.errors import BundleRefused

CONFIG = "encoder/config.json"
WEIGHTS = "encoder/weights.safetensors"
ITEM_TOKENS = "item_tokens.safetensors"
TOKEN_TABLE = {"tokens": "item_tokens.tokens", "offsets": "item_tokens.offsets"}  # name in the file -> in the state


class EncoderFile(BaseModel):
    """encoder/config.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: EncoderConfig


def write_encoder(encoder: QueryEncoder, folder: Path) -> None:
    """Writes config, weights and, where the encoder has one, the token table, into the bundle folder `folder`."""
    (folder / "encoder").mkdir()
    (folder / CONFIG).write_text(encoder.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    # Cloned: safetensors refuses tensors that share memory, and a view would drag its whole storage along.
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in encoder.state_dict().items()}
    table = {short: state.pop(name) for short, name in TOKEN_TABLE.items() if name in state}
    save_file(state, folder / WEIGHTS)
    if table:
        save_file(table, folder / ITEM_TOKENS)


def read_encoder_config(folder: Path) -> EncoderConfig:
    text = (folder / CONFIG).read_bytes()
    try:
        return EncoderFile.model_validate_json(b'{"encoder": ' + text + b"}").encoder
    except ValidationError as error:
        raise BundleRefused(f"{CONFIG}: {error.errors()[0]['msg']}") from error


def read_encoder(folder: Path, *, device: str = "cpu") -> QueryEncoder:
    """Builds the encoder without initialising it, and gives it the tensors of the files, in memory of its own.

    A mapped file that somebody truncates is SIGBUS, which ends the process: hence the copies.
    BundleRefused when config and tensors do not fit each other exactly.
    """
    config = read_encoder_config(folder)
    state = read_tensors(folder / WEIGHTS)
    if (folder / ITEM_TOKENS).exists():
        state |= {TOKEN_TABLE[short]: tensor for short, tensor in read_tensors(folder / ITEM_TOKENS).items()}
    try:
        with torch.device("meta"):
            encoder = config.build()
        encoder.load_state_dict(state, assign=True)
    except (RuntimeError, ValueError, TypeError) as error:  # keys, shapes; an LM config that transformers refuses
        raise BundleRefused(f"{WEIGHTS} does not fit {CONFIG}: {error}") from error
    encoder.rebuild_buffers()
    left = [name for name, tensor in [*encoder.named_parameters(), *encoder.named_buffers()] if tensor.is_meta]
    if left:
        raise BundleRefused(f"{WEIGHTS}: nothing fills {', '.join(left)}")
    encoder = encoder.to(device).eval().requires_grad_(False)
    if isinstance(encoder, LanguageModelEncoder) and not multiplies_bfloat16(torch.device(device)):
        encoder.compute_in(torch.float32)
    return encoder


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there. A CPU without AVX512-BF16 or AMX emulates it, ten times slower."""
    if device.type != "cpu":
        return True
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, copied out of the mapping."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise BundleRefused(f"{file.name}: {error}") from error
