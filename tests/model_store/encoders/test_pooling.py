"""Running and continued pooling agree with pooling a whole prefix at once."""

from __future__ import annotations

import pytest
import torch

from model_store.encoders.pooling import Pooling, pool, pool_running

POOLINGS: list[Pooling] = ["last", "mean", "weighted_mean"]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_running_pool_equals_pool_of_every_prefix(pooling: Pooling) -> None:
    states_SH = torch.randn(9, 4)
    ends_T = torch.tensor([0, 3, 4, 8])
    expected = torch.stack([pool(states_SH[: end + 1], pooling)[0] for end in ends_T.tolist()])
    torch.testing.assert_close(pool_running(states_SH, ends_T, pooling), expected)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_continued_pool_equals_the_whole(pooling: Pooling) -> None:
    states_SH = torch.randn(9, 4)
    _, before = pool(states_SH[:4], pooling)
    continued, _ = pool(states_SH[4:], pooling, before=before)
    torch.testing.assert_close(continued, pool(states_SH, pooling)[0])


def test_weighted_mean_weighs_by_position() -> None:
    states_SH = torch.tensor([[6.0], [0.0], [0.0]])
    assert float(pool(states_SH, "weighted_mean")[0]) == 1.0
    assert float(pool(states_SH, "mean")[0]) == 2.0
    assert float(pool(states_SH, "last")[0]) == 0.0


def test_pooling_is_float32_whatever_the_states_are() -> None:
    states_SH = torch.full((4096, 1), 1.001953125, dtype=torch.bfloat16) + torch.tensor(0.0078125, dtype=torch.bfloat16)
    pooled, _ = pool(states_SH, "mean")
    assert pooled.dtype == torch.float32
    assert float(pooled) == pytest.approx(float(states_SH[0]), rel=1e-6)
