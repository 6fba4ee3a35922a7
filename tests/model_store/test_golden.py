from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model_store.bundle import Bundle
from model_store.encoders.history import Encoded, HistoryBatch, UserState
from model_store.encoders.sequence import SequenceConfig, SequenceEncoder
from model_store.errors import BundleRefused
from model_store.golden import TOLERANCES, GoldenQueries, choose, encode_paths
from model_store.item_index import ItemIndex

FLOAT32 = TOLERANCES["float32"]


@pytest.fixture
def bundle(bundle_folder: Path) -> Bundle:
    return Bundle.load(bundle_folder)


@pytest.fixture
def golden(bundle_folder: Path) -> GoldenQueries:
    return GoldenQueries.read(bundle_folder)


def test_what_is_recorded(bundle: Bundle, golden: GoldenQueries) -> None:
    assert len(golden.histories) == 32
    assert set(golden.histories.lengths.tolist()) == set(range(1, 13))  # windowed, of all lengths
    assert golden.vectors_QD.dtype == torch.float32
    assert golden.rows_QK.shape == golden.scores_QK.shape == (32, 11)
    scores_QN = golden.vectors_QD.double() @ torch.from_numpy(bundle.index.vectors_ND).double().T
    assert torch.equal(scores_QN.argsort(dim=1, descending=True)[:, :11], golden.rows_QK)


def test_written_and_read(tmp_path: Path, golden: GoldenQueries) -> None:
    golden.write(tmp_path)
    again = GoldenQueries.read(tmp_path)
    assert torch.equal(again.histories.rows, golden.histories.rows)
    assert torch.equal(again.vectors_QD, golden.vectors_QD)
    assert torch.equal(again.scores_QK, golden.scores_QK)


@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        (lambda vectors_QD: vectors_QD, False),
        (lambda vectors_QD: vectors_QD * 1.0005, False),
        (lambda vectors_QD: vectors_QD * 1.002, True),  # a lost temperature: every cosine is 1
        (lambda vectors_QD: vectors_QD + 1e-5 * vectors_QD.norm(dim=1, keepdim=True) * torch.eye(8)[0], False),
        (lambda vectors_QD: vectors_QD.roll(1, dims=0), True),
        (lambda vectors_QD: vectors_QD * 0, True),
        (lambda vectors_QD: vectors_QD[:-1], True),
        (lambda vectors_QD: torch.where(torch.arange(32)[:, None] == 7, float("nan"), vectors_QD), True),
    ],
)
def test_vectors_that_differ_are_noticed(
    bundle: Bundle, golden: GoldenQueries, change: Callable[[Tensor], Tensor], noticed: bool
) -> None:
    reason = golden.mismatch(change(golden.vectors_QD), bundle.index, tolerances=FLOAT32)
    assert (reason is not None) == noticed


def test_items_that_differ_are_noticed(bundle: Bundle, golden: GoldenQueries) -> None:
    swapped = bundle.index.vectors_ND.copy()
    swapped[int(golden.rows_QK[0, 0])] *= -1
    reason = golden.mismatch(golden.vectors_QD, ItemIndex.of(swapped), tolerances=FLOAT32)
    assert reason is not None
    assert "no longer finds item row" in reason


def test_an_order_within_tolerance_is_not_held(golden: GoldenQueries) -> None:
    # All items alike: nothing stands above the 11th, so any ten may be the top ten.
    index = ItemIndex.of(torch.ones(40, 8))
    same = GoldenQueries.record(_Constant(), index, golden.histories)
    other = GoldenQueries(same.histories, same.vectors_QD, same.rows_QK + 20, same.scores_QK)
    assert other.mismatch(same.vectors_QD, index, tolerances=FLOAT32) is None


def test_a_catalogue_smaller_than_the_top(golden: GoldenQueries) -> None:
    index = ItemIndex.of(torch.eye(8)[:3])
    few = GoldenQueries.record(_Constant(), index, golden.histories)
    assert few.rows_QK.shape == (32, 3)
    assert few.mismatch(few.vectors_QD, index, tolerances=FLOAT32) is None


def test_zero_vectors_are_equal(golden: GoldenQueries) -> None:
    zero = GoldenQueries.record(_Constant(0.0), ItemIndex.of(torch.eye(8)), golden.histories)
    assert not zero.failing(torch.zeros(32, 8), tolerances=FLOAT32).any()
    assert zero.failing(torch.full((32, 8), 1e-6), tolerances=FLOAT32).all()


class _Constant(SequenceEncoder):
    def __init__(self, value: float = 1.0) -> None:
        super().__init__(SequenceConfig(items=40, dim=8, blocks=1, heads=2, max_history=12, jump=3))
        self.value = value

    def forward(self, histories: HistoryBatch) -> Tensor:
        return torch.full((len(histories), 8), self.value)


class _Broken(SequenceEncoder):
    """Right alone and in a batch, wrong where told."""

    def __init__(self, bundle: Bundle, path: str) -> None:
        assert isinstance(bundle.encoder.config, SequenceConfig)
        super().__init__(bundle.encoder.config)
        self.load_state_dict(bundle.encoder.state_dict())
        self.eval()
        self.path = path

    def forward(self, histories: HistoryBatch) -> Tensor:
        wrong = self.path == "one by one" and len(histories) == 1
        return super().forward(histories) * (2.0 if wrong else 1.0)

    def forward_positions(self, histories: HistoryBatch) -> Tensor:
        return super().forward_positions(histories) * (2.0 if self.path == "all positions" else 1.0)

    def extend(self, states: Sequence[UserState | None], new: HistoryBatch) -> Encoded:
        if self.path == "refused":
            raise ValueError("not this encoder")
        known = [state.rows if state else () for state in states]
        rows = [(*past, *new.history(b).tolist()) for b, past in enumerate(known)]
        if self.path == "extended":  # forgets what it knew
            rows = [tuple(new.history(b).tolist()) for b in range(len(new))]
        vectors_BD = super().forward(HistoryBatch.of(rows))
        return Encoded(
            vectors_BD * (2.0 if self.path == "from nothing" else 1.0), tuple(UserState(r, ()) for r in rows)
        )


@pytest.mark.parametrize("path", ["one by one", "all positions", "from nothing", "extended"])
def test_every_encode_path_is_replayed(bundle: Bundle, golden: GoldenQueries, path: str) -> None:
    golden.replay(_Broken(bundle, "none"), bundle.index, tolerances=FLOAT32)
    with pytest.raises(BundleRefused, match=f"golden.safetensors: {path}: query vector"):
        golden.replay(_Broken(bundle, path), bundle.index, tolerances=FLOAT32)


def test_a_path_that_refuses_is_left_out(bundle: Bundle, golden: GoldenQueries) -> None:
    names = [name for name, _ in encode_paths(_Broken(bundle, "refused"), golden.histories)]
    assert names == ["whole batch", "one by one", "all positions"]


def test_histories_of_one_item_can_be_replayed(bundle: Bundle) -> None:
    single = HistoryBatch.of([[3], [4]])
    assert len(list(encode_paths(_Broken(bundle, "none"), single))) == 5


def test_queries_are_chosen_so_that_a_missing_part_is_noticed() -> None:
    histories = HistoryBatch.of([[1]] * 100)
    vectors_QD = torch.ones(100, 4)
    seldom = vectors_QD.clone()
    seldom[50] *= 2  # not among the 32 that are taken evenly
    chosen = choose(histories, vectors_QD, controls={}, tolerances=FLOAT32)
    assert len(chosen) == 32
    assert 50 not in chosen
    with_it = choose(histories, vectors_QD, controls={"adapter": seldom, "head": vectors_QD}, tolerances=FLOAT32)
    assert len(with_it) == 32
    assert 50 in with_it
    assert choose(histories.select(range(3)), vectors_QD[:3], controls={}, tolerances=FLOAT32) == [0, 1, 2]
