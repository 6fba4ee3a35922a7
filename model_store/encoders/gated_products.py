"""The thin products of gated LoRA layers that read one input, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model_store.encoders.products import product


class GatedWeights(NamedTuple):
    """Of one layer: weight [out, in], bias [out] or None, A [R, in], B [out, R]."""

    weight: Tensor
    bias: Tensor | None
    a_RI: Tensor
    b_OR: Tensor


def gated_linears(x: Tensor, layers: Sequence[GatedWeights], gate_SR: Tensor) -> tuple[Tensor, ...]:
    """x W^T + bias + (gate * (x A^T)) B^T of every layer, for x [1, S, in]; weights and biases get no gradient."""
    assert x.shape[:2] == (1, len(gate_SR)), f"a gate for {len(gate_SR)} tokens, and an input of {tuple(x.shape)}"
    flat = [tensor for layer in layers for tensor in layer]
    outputs: tuple[Tensor, ...] = _GatedLinears.apply(x[0], gate_SR, *flat)  # type: ignore[no-untyped-call]
    return tuple(output_SO[None] for output_SO in outputs)


class _GatedLinears(torch.autograd.Function):
    """Keeps x A^T, which is thin, adds in place, and does what concerns x once for all layers: autograd of the formula
    reads and writes all tokens of the layers' width several times more.

    Thin matrices lie rank first, [R, S]: on a CPU (MKL) a product over tokens is then up to seven times faster.
    """

    @staticmethod
    def forward(ctx: Any, x_SI: Tensor, gate_SR: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        weights, biases, a, b = (flat[i::4] for i in range(4))
        all_a, gate_RS = torch.cat(a), gate_SR.T.contiguous()
        low_GRS = (all_a @ x_SI.T).view(len(a), *gate_RS.shape)
        gated_GRS = low_GRS * gate_RS
        ctx.save_for_backward(x_SI, gate_RS, low_GRS, gated_GRS, all_a, *weights, *b)
        parts = zip(weights, biases, gated_GRS, b, strict=True)
        return tuple(_with_bias(product(x_SI, w), bias).addmm_(g_RS.T, b_OR.T) for w, bias, g_RS, b_OR in parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_SI, gate_RS, low_GRS, gated_GRS, all_a, *rest = ctx.saved_tensors
        weights, b = rest[: len(gradients)], rest[len(gradients) :]
        back_GRS = torch.stack([b_OR.T @ dy_SO.T for dy_SO, b_OR in zip(gradients, b, strict=True)])
        db = [(g_RS @ dy_SO).T for dy_SO, g_RS in zip(gradients, gated_GRS, strict=True)]
        dgate_SR = (back_GRS * low_GRS).sum(0).T
        dlow_XS = back_GRS.mul_(gate_RS).flatten(0, 1)
        da = (dlow_XS @ x_SI).chunk(len(gradients))
        dx_SI = None
        if ctx.needs_input_grad[0]:
            dx_SI = dlow_XS.T @ all_a
            for dy_SO, weight in zip(gradients, weights, strict=True):
                dx_SI.add_(product(dy_SO, weight.T))
        thin = [gradient for pair in zip(da, db, strict=True) for gradient in (None, None, *pair)]
        return dx_SI, dgate_SR, *thin


def _with_bias(output_SO: Tensor, bias: Tensor | None) -> Tensor:
    return output_SO if bias is None else output_SO.add_(bias)
