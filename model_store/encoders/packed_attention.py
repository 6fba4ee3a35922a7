"""One attention function for every encode: the new tokens of all histories in one row, each against its own past.

No padding, no cache objects, no 4-D mask. `register_packed_attention` makes it known to transformers as "packed":
transformers builds no mask for a name that it does not know, and hands keyword arguments of `model(...)` through to the
attention function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

ATTENTION = "packed"

# What stock attentions take beyond ours; each changes the result, so silence would be wrong.
_NOT_SUPPORTED = ("softcap", "s_aux", "position_bias", "cache")


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring histories with equally many new tokens and no past: one batched call."""

    start: int  # the first of their tokens in the row
    length: int
    histories: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Packed:
    """One forward pass over a packed row; passed as `packed=` to the model, used once.

    lengths: new tokens of each history, in the order of the row.
    pasts: for each history None or, per layer, [2, kv_heads, tokens, head_dim], keys after RoPE. Read, never changed.
    causal: False lets every token of a history see all of that history; then there can be no past. A sliding window
        of w tokens then reaches every token at a distance below w.
    keep: collect the new keys and values in `new`: per layer two views [kv_heads, total, head_dim].
    """

    lengths: Sequence[int]
    pasts: Sequence[Sequence[Tensor] | None] | None = None
    causal: bool = True
    keep: bool = False
    new: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _runs: tuple[Run, ...] = ()
    _masks: dict[tuple[int, int, int | None, torch.device], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError("every packed history needs at least one new token")
        if self.pasts is not None:
            if len(self.pasts) != len(self.lengths):
                raise ValueError(f"{len(self.pasts)} pasts for {len(self.lengths)} histories")
            if not self.causal and any(past is not None for past in self.pasts):
                raise ValueError("a bidirectional history cannot have a past")
        self._runs = _runs(self.lengths, self.pasts)

    @property
    def runs(self) -> tuple[Run, ...]:
        return self._runs

    def past(self, history: int, layer: int) -> Tensor | None:
        """[2, kv_heads, tokens, head_dim], or None."""
        past = None if self.pasts is None else self.pasts[history]
        return None if past is None else past[layer]

    def mask(self, new: int, past: int, *, window: int | None, device: torch.device) -> Tensor:
        """bool [new, past + new], True where a token may look. Made once per shape, not once per layer."""
        key = (new, past, window, device)
        if key not in self._masks:
            query_S1 = torch.arange(past, past + new, device=device)[:, None]
            distance = query_S1 - torch.arange(past + new, device=device)[None, :]
            seen = distance >= 0 if self.causal else torch.ones_like(distance, dtype=torch.bool)
            self._masks[key] = seen if window is None else seen & (distance.abs() < window)
        return self._masks[key]


def _runs(lengths: Sequence[int], pasts: Sequence[Sequence[Tensor] | None] | None) -> tuple[Run, ...]:
    def alike(history: int) -> tuple[int, int]:
        alone = pasts is not None and pasts[history] is not None
        return lengths[history], history if alone else -1

    runs, start = [], 0
    for (length, _), members in groupby(range(len(lengths)), alike):
        histories = tuple(members)
        runs.append(Run(start, length, histories))
        start += length * len(histories)
    return tuple(runs)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: Packed | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """query [1, heads, total, head_dim], key and value [1, kv_heads, total, head_dim] -> [1, total, heads, head_dim].

    ValueError without `packed`, with a mask, and with what would change the result (soft-capping, sinks, biases).
    """
    if packed is None:
        raise ValueError("packed attention needs packed=Packed(...)")
    if attention_mask is not None or query.shape[0] != 1:
        raise ValueError("packed attention takes one row and no mask")
    for name in _NOT_SUPPORTED:
        if others.get(name) is not None:
            raise ValueError(f"packed attention does not reproduce {name}")
    if sum(packed.lengths) != query.shape[2]:
        raise ValueError(f"the row has {query.shape[2]} tokens, the lengths add up to {sum(packed.lengths)}")
    layer = int(module.layer_idx)  # type: ignore[arg-type]  # an int on every attention module of transformers
    if packed.keep:
        packed.new[layer] = (key[0], value[0])
    outputs = []
    for run in packed.runs:
        here = slice(run.start, run.start + run.length * len(run.histories))
        q, k, v = (_unpacked(x[0, :, here], len(run.histories)) for x in (query, key, value))
        past = packed.past(run.histories[0], layer)
        if past is not None:
            k, v = torch.cat((past[0, None], k), dim=2), torch.cat((past[1, None], v), dim=2)
        seen = k.shape[2]
        window = sliding_window if sliding_window is not None and sliding_window < seen else None
        plain = window is None and (past is None or run.length == 1)
        out_BHSD = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if plain else packed.mask(run.length, seen - run.length, window=window, device=q.device),
            dropout_p=dropout,
            is_causal=plain and packed.causal and run.length > 1,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        outputs.append(out_BHSD.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None], None


def _unpacked(x_HSD: Tensor, histories: int) -> Tensor:
    """[heads, histories * n, d] -> [histories, heads, n, d], a view."""
    return x_HSD.view(x_HSD.shape[0], histories, -1, x_HSD.shape[2]).transpose(0, 1)


def register_packed_attention() -> None:
    """Makes ATTENTION a name that transformers knows; again changes nothing."""
    # Imported here: a process that meets no language model (SASRec, EASE) need not wait seconds for transformers.
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, packed_attention)
