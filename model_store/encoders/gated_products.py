"""The two thin products of a gated LoRA layer, and their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


def gated_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, a_RI: Tensor, b_OR: Tensor, gate_SR: Tensor
) -> Tensor:
    """x W^T + bias + (gate * (x A^T)) B^T for x [1, S, in]; neither weight nor bias gets a gradient."""
    assert x.shape[:2] == (1, len(gate_SR)), f"a gate for {len(gate_SR)} tokens, and an input of {tuple(x.shape)}"
    output_SO: Tensor = _GatedLinear.apply(x[0], weight, bias, a_RI, b_OR, gate_SR)  # type: ignore[no-untyped-call]
    return output_SO[None]


class _GatedLinear(torch.autograd.Function):
    """Keeps x A^T, which is thin, and adds in place: what autograd would make of the formula reads and writes all
    tokens of the layer's width five times more."""

    @staticmethod
    def forward(
        ctx: Any, x_SI: Tensor, weight: Tensor, bias: Tensor | None, a_RI: Tensor, b_OR: Tensor, gate_SR: Tensor
    ) -> Tensor:
        low_SR = x_SI @ a_RI.T
        ctx.save_for_backward(x_SI, weight, a_RI, b_OR, gate_SR, low_SR)
        return linear(x_SI, weight, bias).addmm_(low_SR * gate_SR, b_OR.T)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, Tensor]:
        (dy_SO,) = gradients
        x_SI, weight, a_RI, b_OR, gate_SR, low_SR = ctx.saved_tensors
        back_SR = dy_SO @ b_OR
        db_OR = dy_SO.T @ (low_SR * gate_SR)
        dgate_SR = back_SR * low_SR
        dlow_SR = back_SR.mul_(gate_SR)
        da_RI = dlow_SR.T @ x_SI
        dx_SI = (dy_SO @ weight).addmm_(dlow_SR, a_RI) if ctx.needs_input_grad[0] else None
        return dx_SI, None, None, da_RI, db_OR, dgate_SR
