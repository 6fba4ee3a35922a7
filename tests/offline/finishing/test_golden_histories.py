from __future__ import annotations

from model_store.encoders.history import HistoryBatch
from offline.finishing.golden_histories import golden_histories


def test_all_lengths_are_there_and_one_single_item() -> None:
    train = HistoryBatch.of([list(range(n)) for n in range(100)])
    lengths = golden_histories(train).lengths.tolist()
    assert len(lengths) == 32
    assert min(lengths) == 1
    assert max(lengths) == 99
    assert len(set(lengths)) == 32


def test_few_users_give_few() -> None:
    assert golden_histories(HistoryBatch.of([[], [1, 2], [3]])).lengths.tolist() == [1, 2]
