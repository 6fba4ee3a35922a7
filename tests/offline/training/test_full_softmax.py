from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model_store.encoders import products
from offline.training import full_softmax
from offline.training.full_softmax import full_softmax_loss

ITEMS, DIM = 23, 5


@pytest.fixture(params=[False, True], ids=["mkl", "onednn"])
def small_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of four positions."""
    monkeypatch.setattr(products, "onednn_is_faster", lambda: request.param)
    monkeypatch.setattr(full_softmax, "TOGETHER", 4)
    monkeypatch.setattr(full_softmax, "PIECE", {"cpu": 1, "cuda": 1})


def _drawn(positions: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    users, items = (torch.randn(n, DIM, requires_grad=True) for n in (positions, ITEMS))
    return users, items, torch.randint(ITEMS, (positions,))


def _logits(users: Tensor, items: Tensor, targets: Tensor, closed: Tensor | None, groups: Tensor | None) -> Tensor:
    logits = users @ items.T
    if groups is not None:
        twins = groups[targets][:, None] == groups[None, :]
        twins[torch.arange(len(targets)), targets] = False
        logits = logits.masked_fill(twins, float("-inf"))
    return logits if closed is None else logits.masked_fill(closed, float("-inf"))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("positions", [1, 3, 4, 9])
@pytest.mark.parametrize(("with_closed", "with_groups"), [(False, False), (True, False), (False, True), (True, True)])
def test_loss_and_gradients_are_those_of_all_logits_at_once(
    positions: int, with_closed: bool, with_groups: bool
) -> None:
    users, items, targets = _drawn(positions)
    closed = torch.zeros(ITEMS, dtype=torch.bool)
    closed[[2, 3]] = True
    targets[torch.isin(targets, torch.tensor([2, 3]))] = 4  # nothing of a cold item is a target
    masks = (closed if with_closed else None, torch.arange(ITEMS) // 3 if with_groups else None)
    expected = cross_entropy(_logits(users, items, targets, *masks), targets)
    by_autograd = torch.autograd.grad(3 * expected, (users, items))
    loss = full_softmax_loss(users, items, targets, closed_N=masks[0], groups_N=masks[1])
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(torch.autograd.grad(3 * loss, (users, items)), by_autograd, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    if with_closed:
        (found,) = torch.autograd.grad(full_softmax_loss(users, items, targets, closed_N=closed), items)
        assert (found[closed] == 0).all()


@pytest.mark.usefixtures("small_pieces")
def test_a_side_that_does_not_learn_gets_no_gradient() -> None:
    users, items, targets = _drawn(6)
    full_softmax_loss(users, items.detach(), targets).backward()  # type: ignore[no-untyped-call]
    assert users.grad is not None
    full_softmax_loss(users.detach(), items, targets).backward()  # type: ignore[no-untyped-call]
    assert items.grad is not None
    with torch.no_grad():
        still = full_softmax_loss(users, items, targets)
    assert not still.requires_grad
    torch.testing.assert_close(still, cross_entropy(users @ items.T, targets))


def test_large_scores_do_not_overflow() -> None:
    users, items, targets = _drawn(6)
    torch.testing.assert_close(
        full_softmax_loss(1e3 * users, items, targets), cross_entropy(1e3 * users @ items.T, targets)
    )
