from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import LlamaConfig

from model_store.bundle import Bundle
from model_store.catalog import ItemCatalog
from model_store.encoders.fused import FusedConfig
from model_store.encoders.history import HistoryBatch, QueryEncoder
from model_store.encoders.language_model import LanguageModelConfig
from model_store.encoders.sequence import SequenceConfig
from model_store.encoders.weighted_sum import WeightedSumConfig
from model_store.staging import BundleParts
from offline.datasets import Interactions
from offline.splits.protocols import split
from offline.splits.sequences import SequenceDataset
from offline.teaching import teachers
from offline.teaching.teachers import CachedTeacher, LiveTeacher
from offline.training.windows import training_windows

OpenBundle = Callable[[BundleParts], Bundle]
DIM = 6


@pytest.fixture
def dataset(small_world: Interactions) -> SequenceDataset:
    return split(small_world, "last-10").dataset


@pytest.fixture
def make(dataset: SequenceDataset, open_bundle: OpenBundle) -> Callable[[QueryEncoder], Bundle]:
    def made(encoder: QueryEncoder, catalog: ItemCatalog = dataset.catalog) -> Bundle:
        golden = HistoryBatch.of([dataset.train.history(b) for b in range(32)])
        items_ND = torch.randn(len(catalog), encoder.dim)
        return open_bundle(BundleParts("sasrec", catalog, encoder.eval(), items_ND, golden))

    return made


def _sequence(dataset: SequenceDataset) -> QueryEncoder:
    torch.manual_seed(0)
    items = len(dataset.catalog)
    return SequenceConfig(items=items, dim=DIM, blocks=1, heads=1, max_history=5, jump=2).build()


def _sum(dataset: SequenceDataset) -> QueryEncoder:
    return WeightedSumConfig(items=len(dataset.catalog), dim=3, max_history=50, jump=10, decay_items=4.0).build()


def _fused(dataset: SequenceDataset) -> QueryEncoder:
    encoders = [_sum(dataset), _sum(dataset)]
    parts = tuple(encoder.config for encoder in encoders)
    return FusedConfig(parts=parts, weights=(1.0, 0.5)).build()  # type: ignore[arg-type]  # a union of configs


def _bidirectional(dataset: SequenceDataset) -> QueryEncoder:
    lm = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=4
    ).to_dict()
    config = LanguageModelConfig(
        lm=lm, items=len(dataset.catalog), dim=DIM, max_history=50, jump=10, item_input="vector", causal=False
    )
    encoder = config.build()
    torch.nn.init.normal_(encoder.item_inputs)
    return encoder


@pytest.mark.parametrize(
    ("encoder", "ends_only"),
    [(_sequence, False), (_sum, False), (_fused, False), (_bidirectional, True)],
    ids=["one pass", "sum", "fused", "bidirectional"],
)
def test_a_kept_teacher_says_what_its_bundle_says(
    dataset: SequenceDataset,
    make: Callable[[QueryEncoder], Bundle],
    tmp_path: Path,
    encoder: Callable[[SequenceDataset], QueryEncoder],
    ends_only: bool,
) -> None:
    """Its window may be shorter than the student's: it reads the end of each prefix, as it would be served."""
    bundle = make(encoder(dataset))
    windows = training_windows(dataset.train, 8)
    teacher = CachedTeacher.of(bundle, windows, dataset=dataset, checkpoints=tmp_path)
    batch = windows.select([7, 3, len(windows) - 1])
    inputs = HistoryBatch.of([batch.history(b)[:-1] for b in range(3)])
    read = teacher.read(inputs)
    lengths = inputs.lengths.tolist()
    assert read.positions_X.tolist() == ((inputs.offsets[1:] - 1).tolist() if ends_only else list(range(sum(lengths))))
    prefixes = [
        inputs.history(b)[:end] for b in range(3) for end in range(lengths[b] if ends_only else 1, lengths[b] + 1)
    ]
    expected = bundle.encode(HistoryBatch.of(prefixes)).vectors_BD
    torch.testing.assert_close(read.vectors_XD, expected)
    torch.testing.assert_close(teacher.items_ND, torch.from_numpy(bundle.index.vectors_ND))


def test_it_is_read_once(
    dataset: SequenceDataset,
    make: Callable[[QueryEncoder], Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle, windows = make(_sequence(dataset)), training_windows(dataset.train, 8)
    first = CachedTeacher.of(bundle, windows, dataset=dataset, checkpoints=tmp_path)
    monkeypatch.setattr(teachers, "query_vectors", None)
    again = CachedTeacher.of(bundle, windows, dataset=dataset, checkpoints=tmp_path)
    inputs = HistoryBatch.of([windows.history(4)[:-1]])
    assert torch.equal(first.read(inputs).vectors_XD, again.read(inputs).vectors_XD)
    with pytest.raises(KeyError):
        again.read(HistoryBatch.of([[1, 1, 1]]))


def test_a_live_teacher_reads_in_eval_mode(dataset: SequenceDataset) -> None:
    encoder = _sequence(dataset).train()
    encoder.input_dropout.p = 0.5  # type: ignore[union-attr]
    teacher = LiveTeacher(encoder, torch.randn(len(dataset.catalog), DIM))
    inputs = HistoryBatch.of([[1, 2, 3], [4]])
    read = teacher.read(inputs)
    assert read.positions_X.tolist() == [0, 1, 2, 3]
    assert not read.vectors_XD.requires_grad
    assert torch.equal(read.vectors_XD[2], encoder(inputs)[0])


def test_a_teacher_of_other_items_is_refused(
    dataset: SequenceDataset, make: Callable[..., Bundle], tmp_path: Path
) -> None:
    frame = dataset.catalog.frame.with_columns(pl.col("item_id").reverse())
    bundle = make(_sequence(dataset), ItemCatalog(frame))
    with pytest.raises(ValueError, match="other items"):
        CachedTeacher.of(bundle, training_windows(dataset.train, 8), dataset=dataset, checkpoints=tmp_path)
