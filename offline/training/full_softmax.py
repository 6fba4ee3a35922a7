"""Cross entropy over the whole catalogue, with its gradient, a few rows of logits at a time.

A batch of Amazon Beauty scores 1,700 positions against 12,101 items: 82 MB of logits, which autograd writes and reads
half a dozen times. Here each piece of about 4 MB is scored, turned into probabilities and into gradients while it is in
the cache, and never kept (as Wijmans et al., 2024, "Cut Your Losses in Large-Vocabulary Language Models", do on a GPU).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model_store.encoders.products import TOGETHER, product

PIECE = {"cpu": 2**20, "cuda": 2**25}  # logits


def full_softmax_loss(
    users_TD: Tensor,
    items_ND: Tensor,
    targets_T: Tensor,
    *,
    closed_N: Tensor | None = None,
    groups_N: Tensor | None = None,
) -> Tensor:
    """Mean over T of log sum_j exp(u . v_j) - u . v_target: float32 scalar, gradient to users and items.

    closed_N: bool[N], items in no denominator. groups_N: int64[N], items of the target's number are left out of its
    denominator, itself excepted. A second derivative is not to be had.
    """
    loss: Tensor = _FullSoftmax.apply(users_TD, items_ND, targets_T, closed_N, groups_N)  # type: ignore[no-untyped-call]
    return loss


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        users_TD: Tensor,
        items_ND: Tensor,
        targets_T: Tensor,
        closed_N: Tensor | None,
        groups_N: Tensor | None,
    ) -> Tensor:
        learns, items_learn = any(ctx.needs_input_grad[:2]), ctx.needs_input_grad[1]
        T, N = len(users_TD), len(items_ND)
        closed = None if closed_N is None else closed_N.nonzero().flatten()
        du_TD, dv_ND = torch.empty_like(users_TD), torch.zeros_like(items_ND)
        total = torch.zeros((), dtype=torch.float64, device=users_TD.device)
        whole = TOGETHER * max(1, PIECE.get(users_TD.device.type, PIECE["cuda"]) // (TOGETHER * N))
        for first in range(0, T, whole):
            users_CD, targets_C1 = users_TD[first : first + whole], targets_T[first : first + whole, None]
            logits_CN = product(users_CD, items_ND, fewest=whole)
            target_C1 = logits_CN.gather(1, targets_C1)
            if closed is not None:
                logits_CN.index_fill_(1, closed, float("-inf"))
            if groups_N is not None:
                twins_CN = groups_N[targets_C1] == groups_N
                logits_CN.masked_fill_(twins_CN, float("-inf")).scatter_(1, targets_C1, target_C1)
            top_C1 = logits_CN.amax(1, keepdim=True)
            chances_CN = logits_CN.sub_(top_C1).exp_()
            sum_C1 = chances_CN.sum(1, keepdim=True)
            total += (sum_C1.log() + top_C1 - target_C1).double().sum()
            if learns:
                # From here on the gradient of the mean loss by the logits.
                chances_CN.mul_(1 / (T * sum_C1)).scatter_add_(1, targets_C1, torch.full_like(target_C1, -1 / T))
                du_TD[first : first + whole] = product(chances_CN, items_ND.T, fewest=whole)
            if items_learn:
                # The last piece is of another size each time: no kernel is compiled for it.
                dv_ND += product(chances_CN.T, users_CD.T, fewest=0 if len(users_CD) == whole else N + 1)
        ctx.save_for_backward(du_TD, dv_ND)
        return (total / T).to(users_TD.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        du_TD, dv_ND = ctx.saved_tensors
        users, items = ctx.needs_input_grad[:2]
        return du_TD * gradients[0] if users else None, dv_ND * gradients[0] if items else None, None, None, None
