from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from model_store.encoders.history import HistoryBatch
from offline.teaching import distillation
from offline.teaching.distillation import Distillation, Read, distillation_loss, seen_pairs, soft_targets

ITEMS, DIM = 12, 4


class Knowing:
    """Says after every item what it was made with; `only` positions were read."""

    def __init__(self, vectors_TD: Tensor, items_ND: Tensor, only: Tensor | None = None) -> None:
        self.vectors_TD, self.items_ND = vectors_TD, items_ND
        self.only = torch.arange(len(vectors_TD)) if only is None else only

    def read(self, inputs: HistoryBatch) -> Read:
        return Read(self.only, self.vectors_TD[self.only])


@pytest.fixture
def inputs() -> HistoryBatch:
    return HistoryBatch.of([[1, 2, 3], [5], [9, 8, 1, 2]])


@pytest.fixture
def scores() -> Tensor:
    return torch.randn(8, ITEMS, generator=torch.Generator().manual_seed(0)) * 3


def test_the_soft_targets_are_the_best_items_and_the_target(scores: Tensor) -> None:
    targets = scores.argsort(descending=True)[:, [0, 1, 2, 3, 11, 11, 11, 11]].diagonal()
    soft = soft_targets(scores, targets, top=3, temperature=2.0)
    for x, (target, scores_N) in enumerate(zip(targets.tolist(), scores, strict=True)):
        best = scores_N.topk(3).indices.tolist()
        expected = {row: float(scores_N[row]) / 2 for row in {*best, target}}
        total = sum(math.exp(score) for score in expected.values())
        slots = zip(soft.rows_XK[x].tolist(), soft.log_probabilities_XK[x].exp().tolist(), strict=True)
        given = [(row, share) for row, share in slots if share > 0]
        assert dict(given).keys() == expected.keys()
        assert len(given) == len(expected), "an item stands in two slots"
        for row, share in given:
            assert share == pytest.approx(math.exp(expected[row]) / total, rel=1e-5)


def test_what_is_excluded_is_no_soft_target_unless_it_is_the_target(scores: Tensor) -> None:
    targets = torch.full((8,), 4)
    excluded = (torch.tensor([0, 0, 1]), torch.tensor([4, int(scores[0].argmax()), 7]))
    soft = soft_targets(scores, targets, excluded=excluded)
    held = [
        {row for row, p in zip(rows, log, strict=True) if p > -math.inf}
        for rows, log in zip(soft.rows_XK.tolist(), soft.log_probabilities_XK.tolist(), strict=True)
    ]
    assert held[0] == set(range(ITEMS)) - {int(scores[0].argmax())} | {4}
    assert held[1] == set(range(ITEMS)) - {7}
    assert held[2] == set(range(ITEMS))


def test_the_loss_is_the_divergence_over_those_items(scores: Tensor) -> None:
    student = torch.randn(8, ITEMS, generator=torch.Generator().manual_seed(1)).requires_grad_()
    targets = torch.arange(8)
    soft = soft_targets(scores, targets, top=ITEMS)
    log_p, log_q = log_softmax(scores / 2, -1), log_softmax(student / 2, -1)
    expected = 4 * kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    loss = distillation_loss(student, soft)
    torch.testing.assert_close(loss, expected)
    (grad,) = torch.autograd.grad(loss, student)
    (grad_expected,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(grad, grad_expected, rtol=1e-4, atol=1e-6)


def test_a_student_that_ranks_as_its_teacher_loses_nothing_and_others_items_do_not_count(scores: Tensor) -> None:
    targets = scores.argmax(1)
    soft = soft_targets(scores, targets, top=3)
    student = scores.clone()
    student.scatter_(1, scores.argsort(descending=True)[:, 3:], 50.0)
    student = (student + 7).requires_grad_()  # the softmax knows no level
    loss = distillation_loss(student, soft)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert student.grad.isfinite().all()
    wrong = distillation_loss(torch.zeros_like(scores), soft)
    assert float(wrong) > 0.1


def test_a_history_is_what_stands_up_to_the_position(inputs: HistoryBatch) -> None:
    x, rows = seen_pairs(inputs, torch.tensor([1, 3, 6]))
    assert list(zip(x.tolist(), rows.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 5), (2, 9), (2, 8), (2, 1)]


@pytest.mark.parametrize("together", [3, 1000])
def test_positions_that_the_teacher_has_not_read_teach_nothing(
    inputs: HistoryBatch, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(distillation, "SCORED_TOGETHER", together)
    draw = torch.Generator().manual_seed(0)
    vectors, items = torch.randn(8, DIM, generator=draw), torch.randn(ITEMS, DIM, generator=draw)
    logits, targets = torch.randn(8, ITEMS, generator=draw), torch.arange(8)
    ends = torch.tensor([2, 3, 7])

    def at(positions: Tensor) -> Tensor:
        soft = soft_targets(vectors[positions] @ items.T, targets[positions], excluded=seen_pairs(inputs, positions))
        return 0.5 * distillation_loss(logits[positions], soft)

    whole = Distillation(Knowing(vectors, items), weight=0.5)
    torch.testing.assert_close(whole(inputs, targets, logits), at(torch.arange(8)))
    assert float(at(torch.arange(8))) != pytest.approx(float(at(ends)))
    of_ends = Distillation(Knowing(vectors, items, ends), weight=0.5)
    torch.testing.assert_close(of_ends(inputs, targets, logits), at(ends))
    # A student with one vector per history, and a teacher of all positions or of the ends.
    for taught in (whole, of_ends):
        single = taught(inputs, targets[ends], logits[ends], single_target=True)
        torch.testing.assert_close(single, at(ends))


def test_items_that_must_not_be_learnt_are_no_soft_targets(inputs: HistoryBatch) -> None:
    draw = torch.Generator().manual_seed(0)
    vectors, items = torch.randn(8, DIM, generator=draw), torch.randn(ITEMS, DIM, generator=draw)
    logits, targets = torch.zeros(8, ITEMS, requires_grad=True), torch.full((8,), 3)
    allowed = torch.ones(ITEMS, dtype=torch.bool)
    allowed[[6, 7]] = False
    Distillation(Knowing(vectors, items), weight=1.0, allowed_N=allowed)(inputs, targets, logits).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert (logits.grad[:, [6, 7]] == 0).all()
    assert (logits.grad[:, [0, 4]] != 0).all()
