from __future__ import annotations

from collections.abc import Callable

import torch

from model_store.encoders.history import HistoryBatch
from model_store.rankers.pointwise import PointwiseRanker

MakePointwise = Callable[..., PointwiseRanker]
HISTORIES = HistoryBatch.of([[1, 2, 3], [5], list(range(20))])


@torch.inference_mode()
def test_over_the_whole_catalogue_it_ranks_as_direct_retrieval(pointwise: MakePointwise) -> None:
    ranker = pointwise()
    windowed = HISTORIES.windowed(12, 3)
    direct_BN = ranker.encoder(windowed) @ ranker.item_vectors_ND.T
    torch.testing.assert_close(ranker.opinions(HISTORIES, torch.arange(40).expand(3, 40)), direct_BN)


@torch.inference_mode()
def test_a_batch_equals_its_members_and_padding_changes_nothing(pointwise: MakePointwise) -> None:
    ranker = pointwise()
    rows_BK = torch.tensor([[4, 9, 30], [1, -1, -1], [39, 21, -1]])
    opinions_BK = ranker.opinions(HISTORIES, rows_BK)
    for b in range(3):
        rows_K = rows_BK[b][rows_BK[b] >= 0]
        alone = ranker.opinions(HISTORIES.select([b]), rows_K[None])[0]
        torch.testing.assert_close(opinions_BK[b, : len(rows_K)], alone)


def test_the_cost_is_that_of_the_encoder(pointwise: MakePointwise) -> None:
    assert pointwise().token_counts(HISTORIES) == [3, 1, 11]
    assert pointwise(weight=0.0).token_counts(HISTORIES) == [0, 0, 0]
