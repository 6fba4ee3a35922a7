"""What a teacher knows beside the one right answer: its best items, softened, for a student to match.

Hinton et al., 2015, "Distilling the Knowledge in a Neural Network", over a ranking's head as in Tang and Wang, 2018,
"Ranking Distillation". Which is teacher and which is student is nobody's business here: both give scores of items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from model_store.encoders.history import HistoryBatch

TOP = 100  # items of the teacher
TEMPERATURE = 2.0
SCORED_TOGETHER = 1_024  # positions: more would hold the teacher's whole [T, N] beside the student's


@dataclass(frozen=True, slots=True, eq=False)
class SoftTargets:
    """Of X positions: rows_XK int64, log_probabilities_XK float32, -inf where a slot is empty."""

    rows_XK: Tensor
    log_probabilities_XK: Tensor


class Read(NamedTuple):
    """positions_X: int64, which of the inputs' positions were read. vectors_XD: the teacher's query vectors there."""

    positions_X: Tensor
    vectors_XD: Tensor


class Teacher(Protocol):
    """A model that does not learn any more. items_ND: what its query vectors are matched with."""

    items_ND: Tensor

    def read(self, inputs: HistoryBatch) -> Read:
        """After every item of every history, or after as many as the teacher has read; never one of another model."""


def soft_targets(
    teacher_XN: Tensor,
    targets_X: Tensor,
    *,
    excluded: tuple[Tensor, Tensor] | None = None,
    top: int = TOP,
    temperature: float = TEMPERATURE,
) -> SoftTargets:
    """The teacher's `top` items and the target, with softmax(score / temperature) over exactly these.

    excluded: (positions, rows) that are no answers: what the history holds. The target always is one.
    """
    scores_XN = teacher_XN
    if excluded is not None:
        scores_XN = teacher_XN.index_put(excluded, torch.tensor(float("-inf"), device=teacher_XN.device))
    best = scores_XN.topk(min(top, scores_XN.shape[1]), dim=1)
    targets_X1 = targets_X[:, None]
    known_X1 = (best.indices == targets_X1).logical_and(best.values.isfinite()).any(1, keepdim=True)
    own_X1 = teacher_XN.gather(1, targets_X1).masked_fill(known_X1, float("-inf"))
    scores_XK = torch.cat((best.values, own_X1), dim=1).float()
    rows_XK = torch.cat((best.indices, targets_X1), dim=1)
    return SoftTargets(rows_XK, log_softmax(scores_XK / temperature, dim=1))


def distillation_loss(student_XN: Tensor, soft: SoftTargets, *, temperature: float = TEMPERATURE) -> Tensor:
    """temperature^2 KL(teacher || student) over the soft targets' items, mean over positions.

    Both distributions are over those items alone: the student's scores of all others are the cross entropy's affair.
    """
    empty_XK = soft.log_probabilities_XK == float("-inf")
    student_XK = student_XN.gather(1, soft.rows_XK).float() / temperature
    log_q_XK = log_softmax(student_XK.masked_fill(empty_XK, float("-inf")), dim=1)
    # An empty slot weighs nothing; -inf minus -inf would be no number.
    gap_XK = (soft.log_probabilities_XK - log_q_XK.masked_fill(empty_XK, 0.0)).masked_fill(empty_XK, 0.0)
    return temperature**2 * (soft.log_probabilities_XK.exp() * gap_XK).sum(1).mean()


class Distillation:
    """weight * the loss above, at every position that the teacher has read: what an objective adds to its own.

    Not a module: the teacher is no part of what is trained, saved or sent between processes.
    allowed_N: bool [N], items that may be soft targets (None: all).
    """

    def __init__(self, teacher: Teacher, *, weight: float, allowed_N: Tensor | None = None) -> None:
        self.teacher = teacher
        self.weight = weight
        self.banned = None if allowed_N is None else (~allowed_N).nonzero().flatten()

    def __call__(
        self, inputs: HistoryBatch, targets_T: Tensor, logits_TN: Tensor, *, single_target: bool = False
    ) -> Tensor:
        """logits_TN: the student's, nothing masked, after every item of `inputs`; with single_target, targets [B] and
        logits [B, N] after the last item of each history."""
        read = self.teacher.read(inputs)
        positions_X, student_X, vectors_XD = read.positions_X, read.positions_X, read.vectors_XD
        if single_target:
            last_B = inputs.offsets[1:] - 1
            kept = torch.isin(positions_X, last_B)
            positions_X, vectors_XD = positions_X[kept], vectors_XD[kept]
            student_X = torch.searchsorted(last_B, positions_X)
        if len(positions_X) == 0:
            return logits_TN.sum() * 0.0
        total = logits_TN.new_zeros(())
        for part in torch.split(torch.arange(len(positions_X)), SCORED_TOGETHER):
            rows_X = student_X[part].to(logits_TN.device)
            with torch.no_grad():
                soft = self._soft(inputs, positions_X[part], vectors_XD[part], targets_T[rows_X])
            total = total + distillation_loss(logits_TN[rows_X], soft) * len(part)
        return self.weight * total / len(positions_X)

    def _soft(self, inputs: HistoryBatch, positions_X: Tensor, vectors_XD: Tensor, targets_X: Tensor) -> SoftTargets:
        items_ND = self.teacher.items_ND.to(targets_X.device)
        scores_XN = vectors_XD.to(targets_X.device).float() @ items_ND.T
        if self.banned is not None:
            scores_XN[:, self.banned.to(scores_XN.device)] = float("-inf")
        seen = tuple(index.to(scores_XN.device) for index in seen_pairs(inputs, positions_X))
        return soft_targets(scores_XN, targets_X, excluded=(seen[0], seen[1]))


def seen_pairs(inputs: HistoryBatch, positions_X: Tensor) -> tuple[Tensor, Tensor]:
    """(x, row) for every item that a history holds up to and with position positions_X[x]; both int64."""
    starts_X = inputs.offsets[torch.searchsorted(inputs.offsets, positions_X, right=True) - 1]
    lengths_X = positions_X + 1 - starts_X
    x = torch.repeat_interleave(torch.arange(len(positions_X)), lengths_X)
    within = torch.arange(len(x)) - (lengths_X.cumsum(0) - lengths_X)[x]
    return x, inputs.rows[starts_X[x] + within].long()
