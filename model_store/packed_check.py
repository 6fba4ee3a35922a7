"""Is a decoder read right in packed rows? Asked of every base model before anything is built on it."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from model_store.encoders.decoder import build_decoder
from model_store.encoders.packed_attention import ATTENTION, Packed
from model_store.errors import BaseModelRefused

_LENGTHS = (9, 3, 12, 3)
_WINDOW = 4  # shorter than the rows, so that the check reaches past it
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def refuse_unless_packed_is_exact(lm: PreTrainedModel, name: str) -> None:
    """BaseModelRefused unless packed rows, fresh and continued, give what a stock attention gives one by one.

    `lm` still has its token table. Where layers have a sliding window, the same architecture with a tiny one is
    checked as well: no affordable row would leave the real one.
    """
    _refuse_unless_exact(lm, name)
    window = getattr(lm.config, "sliding_window", None)
    if window is not None:
        config = lm.config.to_dict()
        config["sliding_window"] = _WINDOW
        with torch.random.fork_rng(devices=[]):
            twin = build_decoder(config, torch.float32).eval()
        _refuse_unless_exact(twin, f"{name} with a window of {_WINDOW}")


@torch.no_grad()
def _refuse_unless_exact(lm: PreTrainedModel, name: str) -> None:
    rows = _token_rows(int(lm.config.vocab_size))
    try:
        expected = _one_by_one(lm, rows)
        fresh = _packed(lm, rows, None)
        layers = int(lm.config.num_hidden_layers)
        if sorted(fresh[1].new) != list(range(layers)):
            raise BaseModelRefused(f"{name}: {layers} layers, but not every one of them attends through the interface")
        continued = _continued(lm, rows)
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise BaseModelRefused(f"{name} cannot be read in packed rows: {error}") from error
    tolerance = _TOLERANCE.get(lm.dtype, 1e-4)
    for how, states in (("packed", fresh[0]), ("continued", continued)):
        error_size = max(_error(a, b) for a, b in zip(states, expected, strict=True))
        if not error_size <= tolerance:
            raise BaseModelRefused(f"{name}: {how} rows differ from one by one by {error_size:.1e} (> {tolerance:.0e})")


def _token_rows(vocabulary: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(vocabulary, (length,), generator=generator) for length in _LENGTHS]


def _one_by_one(lm: PreTrainedModel, rows: list[Tensor]) -> list[Tensor]:
    lm.set_attn_implementation("sdpa" if lm._supports_sdpa else "eager")
    try:
        return [lm(input_ids=row[None].to(lm.device), use_cache=False).last_hidden_state[0] for row in rows]
    finally:
        lm.set_attn_implementation(ATTENTION)


def _packed(lm: PreTrainedModel, rows: list[Tensor], pasts: list[list[Tensor]] | None) -> tuple[list[Tensor], Packed]:
    lengths = [len(row) for row in rows]
    known = [0 if pasts is None else past[0].shape[2] for past in pasts or rows]
    positions = torch.cat([torch.arange(t, t + n) for t, n in zip(known, lengths, strict=True)])
    packed = Packed(lengths, pasts, keep=True)
    embedded = lm.get_input_embeddings()(torch.cat(rows)[None].to(lm.device))
    output = lm(inputs_embeds=embedded, position_ids=positions[None].to(lm.device), use_cache=False, packed=packed)
    return list(torch.split(output.last_hidden_state[0], lengths)), packed


def _continued(lm: PreTrainedModel, rows: list[Tensor]) -> list[Tensor]:
    heads = [row[: len(row) // 2] for row in rows]
    states, packed = _packed(lm, heads, None)
    lengths = [len(head) for head in heads]
    pasts: list[list[Tensor]] = [[] for _ in rows]
    for layer in sorted(packed.new):
        key, value = (torch.split(x, lengths, dim=1) for x in packed.new[layer])
        for past, pair in zip(pasts, zip(key, value, strict=True), strict=True):
            past.append(torch.stack(pair))
    tails, _ = _packed(lm, [row[len(row) // 2 :] for row in rows], pasts)
    return [torch.cat(pair) for pair in zip(states, tails, strict=True)]


def _error(states: Tensor, expected: Tensor) -> float:
    return float((states - expected).abs().max() / expected.abs().max())
