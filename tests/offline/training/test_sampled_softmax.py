from __future__ import annotations

import pytest
import torch

from model_store.encoders.history import HistoryBatch
from model_store.encoders.sequence import SequenceConfig, SequenceEncoder
from offline.training.objectives import NextItem
from offline.training.sampled_softmax import SampledNextItem, negative_shares

ITEMS = 30


@pytest.fixture
def encoder() -> SequenceEncoder:
    torch.manual_seed(0)
    encoder = SequenceConfig(items=ITEMS, dim=16, blocks=1, heads=2, max_history=9, jump=3).build().eval()
    torch.nn.init.normal_(encoder.items.weight, std=0.4)
    return encoder


@pytest.fixture
def windows() -> HistoryBatch:
    draw = torch.Generator().manual_seed(0)
    return HistoryBatch.of([torch.randint(0, ITEMS - 4, (8,), generator=draw) for _ in range(12)])


def _shares() -> torch.Tensor:
    events = torch.arange(ITEMS)
    cold = torch.zeros(ITEMS, dtype=torch.bool)
    cold[-4:] = True
    return negative_shares(events, cold)


def test_half_is_uniform_and_half_by_popularity_and_cold_items_are_never_drawn() -> None:
    shares = _shares()
    assert float(shares.sum()) == pytest.approx(1)
    assert (shares[-4:] == 0).all()
    assert float(shares[0]) == pytest.approx(0.5 / (ITEMS - 4)), "what nobody chose is drawn too"
    events = torch.arange(ITEMS - 4).double()
    torch.testing.assert_close(shares[:-4], 0.5 / (ITEMS - 4) + 0.5 * events / events.sum())


def test_the_loss_and_its_gradient_approach_the_full_ones(encoder: SequenceEncoder, windows: HistoryBatch) -> None:
    cold = torch.zeros(ITEMS, dtype=torch.bool)
    cold[-4:] = True

    def learnt(objective: NextItem) -> tuple[float, torch.Tensor]:
        loss = objective(windows)
        (gradient,) = torch.autograd.grad(loss, encoder.items.weight)
        return float(loss.detach()), gradient

    loss, gradient = learnt(NextItem(encoder, cold_N=cold.numpy()))
    off = []
    for negatives in (10, 300, 20_000):
        torch.manual_seed(1)
        found = [learnt(SampledNextItem(encoder, shares_N=_shares(), negatives=negatives)) for _ in range(5)]
        losses = [abs(ours - loss) for ours, _ in found]
        gradients = [float((ours - gradient).norm() / gradient.norm()) for _, ours in found]
        off.append((sum(losses) / 5, sum(gradients) / 5))
    assert off[0][0] > off[1][0] > off[2][0]
    assert off[0][1] > off[1][1] > off[2][1]
    assert off[2][0] < 0.01 * loss
    assert off[2][1] < 0.05


def test_items_are_drawn_as_often_as_their_share_says(encoder: SequenceEncoder) -> None:
    torch.manual_seed(0)
    drawn = SampledNextItem(encoder, shares_N=_shares(), negatives=200_000)._draw()
    found = torch.bincount(drawn, minlength=ITEMS).double() / len(drawn)
    torch.testing.assert_close(found, _shares(), rtol=0.1, atol=5e-4)
    assert (found[-4:] == 0).all()
