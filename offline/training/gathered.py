"""Tensors of all processes that train together as one, with gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def gather(own_X: Tensor) -> tuple[Tensor, int]:
    """[X, ...] of every process, in the order of their ranks, and where the own rows start. X may differ.

    Of numbers with gradient, each process gets the sum of what all of them ask of its rows: processes then average
    their parameters' gradients, as for a mean of losses.
    """
    if processes() == 1:
        return own_X, 0
    lengths = _lengths(own_X)
    start = sum(lengths[: distributed.get_rank()])
    whole: Tensor = _Gather.apply(own_X, lengths, start)  # type: ignore[no-untyped-call]
    return whole, start


def _lengths(own_X: Tensor) -> list[int]:
    own = torch.tensor([len(own_X)], device=own_X.device)
    found = [torch.zeros_like(own) for _ in range(processes())]
    distributed.all_gather(found, own)
    return [int(length) for length in found]


class _Gather(torch.autograd.Function):
    """gloo sends tensors of one size, and has no reduce_scatter: padded there, summed whole on the way back."""

    @staticmethod
    def forward(ctx: Any, own_X: Tensor, lengths: list[int], start: int) -> Tensor:
        ctx.place = slice(start, start + len(own_X))
        padded = own_X.new_zeros((max(lengths), *own_X.shape[1:]))
        padded[: len(own_X)] = own_X
        found = [torch.empty_like(padded) for _ in lengths]
        distributed.all_gather(found, padded)
        return torch.cat([part[:length] for part, length in zip(found, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        whole = gradients[0].contiguous().clone()
        distributed.all_reduce(whole)
        return whole[ctx.place], None, None
