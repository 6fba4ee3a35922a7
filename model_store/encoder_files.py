"""An encoder on disk: its config, its state dict, and the token table of its items in a file of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from model_store.encoders import EncoderConfig
from model_store.encoders.history import QueryEncoder
from model_store.encoders.language_model import LanguageModelEncoder
from model_store.errors import BundleRefused

CONFIG = "encoder/config.json"
WEIGHTS = "encoder/weights.safetensors"
ITEM_TOKENS = "item_tokens.safetensors"
TOKEN_TABLE = {"tokens": "item_tokens.tokens", "offsets": "item_tokens.offsets"}  # name in the file -> in the state


class _WithoutInitialValues(TorchFunctionMode):
    """Leaves out torch.nn.init: a normal draw on the meta device imports torch._dynamo and sympy, for a second."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return func(*args, **given)


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


def build_empty(folder: Path) -> QueryEncoder:
    """The encoder that config.json describes, on the meta device: without memory. BundleRefused when there is none.

    The first encoder of a kind imports what it needs: transformers, for a language model, which takes seconds.
    """
    config = read_encoder_config(folder)
    try:
        with torch.device("meta"), _WithoutInitialValues():
            return config.build()
    except (RuntimeError, ValueError, TypeError) as error:  # a decoder's config that transformers refuses
        raise BundleRefused(f"{CONFIG}: {error}") from error


def read_encoder(folder: Path, *, device: str = "cpu") -> QueryEncoder:
    """Builds the encoder without initialising it, and gives it the tensors of the files, in memory of its own.

    A mapped file that somebody truncates is SIGBUS, which ends the process: hence the copies.
    BundleRefused when config and tensors do not fit each other exactly.
    """
    encoder = build_empty(folder)
    state = read_tensors(folder / WEIGHTS)
    if (folder / ITEM_TOKENS).exists():
        state |= {TOKEN_TABLE[short]: tensor for short, tensor in read_tensors(folder / ITEM_TOKENS).items()}
    try:
        encoder.load_state_dict(state, assign=True)
    except (RuntimeError, ValueError, TypeError) as error:  # keys, shapes
        raise BundleRefused(f"{WEIGHTS} does not fit {CONFIG}: {error}") from error
    del state  # or each tensor would outlive its cast, and the language model be in memory twice
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
