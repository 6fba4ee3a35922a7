"""Stock transformers decoders without their token table: built from a config, read in packed rows.

transformers is imported where a decoder is made, not before: it takes seconds, and a process that meets no language
model (SASRec, EASE) never needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from model_store.encoders.packed_attention import ATTENTION, Packed, register_packed_attention

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# What a config could use to run other code than transformers' own, or to need other kernels.
_FORBIDDEN = ("auto_map", "quantization_config", "trust_remote_code")
# Frequencies that depend on the longest row read so far: batches would not be independent of each other.
_MOVING_ROPE = ("dynamic", "longrope")


class NoEmbedding(nn.Module):
    """Stands where the token table was: this decoder reads vectors only."""

    def forward(self, _tokens: Tensor) -> Tensor:
        raise ValueError("this language model reads inputs_embeds; its token table is kept elsewhere")


def decoder_config(config: Mapping[str, Any]) -> PretrainedConfig:
    """ValueError for a model type that transformers does not ship, and for remote code or quantisation.

    Every decoder begins with its config, so from here on transformers knows the packed attention as well.
    """
    from transformers import CONFIG_MAPPING

    register_packed_attention()
    values = dict(config)
    model_type = values.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"model_type {model_type!r} is not an architecture of transformers")
    for key in _FORBIDDEN:
        if values.get(key) is not None:
            raise ValueError(f"a language model's config must not have {key}")
    made = CONFIG_MAPPING[model_type](**values)
    if made.get_text_config() is not made:
        raise ValueError(f"{model_type} is more than a text decoder")
    if any(kind in _MOVING_ROPE for kind in _rope_types(made)):
        raise ValueError("RoPE that adapts to the longest row read makes a history's vector depend on its batch")
    return made


def has_sliding_window(config: Mapping[str, Any]) -> bool:
    """Whether some layer of a transformers config sees no further than a window."""
    if config.get("sliding_window") is None or config.get("use_sliding_window") is False:
        return False
    return "sliding_attention" in (config.get("layer_types") or ["sliding_attention"])


def build_decoder(config: Mapping[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    """With the architecture's own initial weights; on the meta device where that is torch's current one."""
    from transformers import AutoModel

    return AutoModel.from_config(decoder_config(config), dtype=dtype, attn_implementation=ATTENTION)


def take_embedding(lm: PreTrainedModel) -> nn.Module:
    """The token table, taken out of `lm`, which from now on reads `inputs_embeds` only."""
    embedding = lm.get_input_embeddings()
    lm.set_input_embeddings(NoEmbedding())
    return embedding  # type: ignore[no-any-return]


def read_row(lm: nn.Module, inputs_SH: Tensor, positions_S: Tensor, packed: Packed) -> Tensor:
    """One forward pass over a packed row: last hidden states [S, H] in the LM's dtype."""
    output = lm(inputs_embeds=inputs_SH[None], position_ids=positions_S[None], use_cache=False, packed=packed)
    return output.last_hidden_state[0]  # type: ignore[no-any-return]


def rebuild_buffers(lm: PreTrainedModel, device: torch.device) -> None:
    """Recompute what no state dict holds (RoPE tables), in float32, on `device`."""
    for module in lm.modules():
        if module._non_persistent_buffers_set:
            module.to_empty(device=device, recurse=False)
            with torch.no_grad():
                lm._init_weights(module)  # transformers' own rule, the one that from_pretrained uses
    for name, buffer in lm.named_buffers():
        if buffer.is_meta:
            raise ValueError(f"do not know how to recompute {name} of {type(lm).__name__}")


def cast_decoder(lm: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast the weights in place; `lm.to(dtype)` would round the RoPE tables as well."""
    for parameter in lm.parameters():
        parameter.data = parameter.data.to(dtype)
    lm.config.dtype = dtype


def _rope_types(config: PretrainedConfig) -> list[str]:
    rope = getattr(config, "rope_parameters", None) or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    return [str(part["rope_type"]) for part in parts if "rope_type" in part]
