"""The thin products of gated LoRA layers that read one input, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear


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
    reads and writes all tokens of the layers' width several times more."""

    @staticmethod
    def forward(ctx: Any, x_SI: Tensor, gate_SR: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        weights, biases, a, b = (flat[i::4] for i in range(4))
        all_a = torch.cat(a)
        low_SGR = (x_SI @ all_a.T).view(len(x_SI), len(a), -1)
        ctx.save_for_backward(x_SI, gate_SR, low_SGR, all_a, *weights, *b)
        gated_GSR = (low_SGR * gate_SR[:, None]).unbind(1)
        parts = zip(weights, biases, gated_GSR, b, strict=True)
        return tuple(linear(x_SI, weight, bias).addmm_(g_SR, b_OR.T) for weight, bias, g_SR, b_OR in parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_SI, gate_SR, low_SGR, all_a, *rest = ctx.saved_tensors
        G = len(gradients)
        weights, b = rest[:G], rest[G:]
        gated_SGR = low_SGR * gate_SR[:, None]
        back_SGR = torch.stack([dy_SO @ b_OR for dy_SO, b_OR in zip(gradients, b, strict=True)], dim=1)
        db = [dy_SO.T @ gated_SGR[:, i] for i, dy_SO in enumerate(gradients)]
        dgate_SR = (back_SGR * low_SGR).sum(1)
        dlow_SX = back_SGR.mul_(gate_SR[:, None]).flatten(1)
        da = (dlow_SX.T @ x_SI).chunk(G)
        dx_SI = None
        if ctx.needs_input_grad[0]:
            dx_SI = dlow_SX @ all_a
            for dy_SO, weight in zip(gradients, weights, strict=True):
                dx_SI.addmm_(dy_SO, weight)
        thin = [gradient for pair in zip(da, db, strict=True) for gradient in (None, None, *pair)]
        return dx_SI, dgate_SR, *thin
