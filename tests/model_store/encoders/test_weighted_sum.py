from __future__ import annotations

import math

import pytest
import torch

from model_store.encoders.history import HistoryBatch
from model_store.encoders.weighted_sum import WeightedSumConfig, WeightedSumEncoder


def encoder(decay: float | None, *, max_history: int = 50) -> WeightedSumEncoder:
    torch.manual_seed(0)
    config = WeightedSumConfig(items=30, dim=8, max_history=max_history, jump=10, decay_items=decay)
    return config.build().eval()


@pytest.mark.parametrize("decay", [None, 0.5, 10.0])
def test_the_sum_by_hand(decay: float | None) -> None:
    found = encoder(decay)
    history = [3, 7, 3, 29]
    weights = [1.0 if decay is None else math.exp(-(3 - place) / decay) for place in range(4)]
    expected = sum(weight * found.left.weight[row].double() for weight, row in zip(weights, history, strict=True))
    torch.testing.assert_close(found(HistoryBatch.of([history]))[0].double(), expected, atol=1e-6, rtol=1e-6)


def test_batch_equals_single_to_the_last_bit() -> None:
    found = encoder(5.0)
    histories = HistoryBatch.of([[1], list(range(30)), [5, 5], [0, 29]])
    whole = found(histories)
    for b in range(len(histories)):
        assert torch.equal(found(histories.select([b]))[0], whole[b])


@pytest.mark.parametrize("history", [[], [0] * 4])
def test_empty_and_overlong_histories_are_refused(history: list[int]) -> None:
    with pytest.raises(ValueError, match=r"1\.\.3"):
        encoder(None, max_history=3)(HistoryBatch.of([[1], history]))
