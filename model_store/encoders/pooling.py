"""From the language model's states to one vector per read-out, in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["last", "mean", "weighted_mean"]


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """What pooling has taken in so far: a float32 sum [H], and the number of tokens in it."""

    sum_H: Tensor
    tokens: int


def pool(states_SH: Tensor, pooling: Pooling, *, before: Pooled | None = None) -> tuple[Tensor, Pooled | None]:
    """One history's tokens S, oldest first -> its pooled vector [H], and what an extension goes on from.

    `mean` weighs tokens alike; `weighted_mean` by their position, counted from 1 (SGPT, Muennighoff 2022).
    """
    if pooling == "last":
        return states_SH[-1].float(), None
    known = 0 if before is None else before.tokens
    sum_H = _weighted(states_SH, pooling, known).sum(0)
    if before is not None:
        sum_H = sum_H + before.sum_H
    after = Pooled(sum_H, known + len(states_SH))
    return sum_H / _total_weight(after.tokens, pooling), after


def pool_running(states_SH: Tensor, ends_T: Tensor, pooling: Pooling) -> Tensor:
    """One history's tokens S, and the index of each item's last one -> [T, H]: item t pools tokens 0..ends_T[t]."""
    if pooling == "last":
        return states_SH[ends_T].float()
    sums_TH = _weighted(states_SH, pooling, 0).cumsum(0)[ends_T]
    tokens_T = (ends_T + 1).float()
    weights_T = tokens_T if pooling == "mean" else tokens_T * (tokens_T + 1) / 2
    return sums_TH / weights_T[:, None]


def _weighted(states_SH: Tensor, pooling: Pooling, known: int) -> Tensor:
    if pooling == "mean":
        return states_SH.float()
    weights_S = torch.arange(known + 1, known + len(states_SH) + 1, dtype=torch.float32, device=states_SH.device)
    return states_SH.float() * weights_S[:, None]


def _total_weight(tokens: int, pooling: Pooling) -> float:
    return float(tokens) if pooling == "mean" else tokens * (tokens + 1) / 2
