from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import LlamaConfig

from model_store import encoder_files
from model_store.bundle import Bundle
from model_store.encoders.history import Encoded, HistoryBatch, QueryEncoder, UserState
from model_store.encoders.language_model import LanguageModelConfig, LanguageModelEncoder
from model_store.manifest import Provenance
from model_store.preparing import prepare
from model_store.ranker import Ranker
from model_store.retrieval import Rows, Want
from model_store.staging import BundleParts
from model_store.store import ModelStore


@pytest.fixture
def bundle(bundle_folder: Path) -> Bundle:
    return Bundle.load(bundle_folder)


@dataclass(frozen=True)
class ByRow(Ranker):
    """A stand-in ranker: the higher the row, the better; ties by thousands."""

    depth: int = 15

    def score(self, histories: HistoryBatch, item_rows_BK: Tensor, retriever_BK: Tensor) -> Tensor:
        assert item_rows_BK.shape[0] == len(histories)
        assert int(histories.lengths.max()) <= 12
        return torch.where(item_rows_BK < 0, float("nan"), (item_rows_BK // 2).float())


def histories() -> HistoryBatch:
    return HistoryBatch.of([[1, 2, 3], [5], list(range(30))])


def wants() -> list[Want]:
    return [
        Want(5, excluded_rows=np.array([1, 2, 3])),
        Want(10, categories=("rare",)),
        Want(7, rerank=False, allowed_rows=np.arange(20)),
    ]


@pytest.mark.parametrize("ranker", [None, ByRow()])
def test_retrieve_is_encode_search_rank(bundle: Bundle, ranker: ByRow | None) -> None:
    bundle = replace(bundle, ranker=ranker)
    stepwise = bundle.rank(histories(), bundle.search(bundle.encode(histories()).vectors_BD, wants()))
    for found, step in zip(bundle.retrieve(histories(), wants()), stepwise, strict=True):
        assert found.rows.tolist() == step.rows.tolist()
        assert found.scores.tolist() == step.scores.tolist()
        assert found.exhausted == step.exhausted


def test_filters_hold(bundle: Bundle) -> None:
    seen, rare, allowed = bundle.retrieve(histories(), wants())
    assert len(seen.rows) == 5
    assert not set(seen.rows) & {1, 2, 3}
    assert rare.rows.tolist() == [3]
    assert rare.exhausted
    assert set(allowed.rows) <= set(range(20))
    assert not allowed.exhausted


def test_categories_and_allowed_rows_both_hold(bundle: Bundle) -> None:
    want = Want(40, categories=("odd", "no such"), allowed_rows=np.array([1, 2, 3, 5]), excluded_rows=np.array([5]))
    for found in (*bundle.retrieve(histories().select([0]), [want]), *bundle.popular([want])):
        assert sorted(found.rows.tolist()) == [1, 3]
        assert found.exhausted


def test_ranker_sees_its_depth_and_cuts_to_k(bundle: Bundle) -> None:
    ranked = replace(bundle, ranker=ByRow())
    wanted = [Want(3), Want(3, rerank=False), Want(20)]
    vectors_BD = bundle.encode(histories()).vectors_BD
    found = ranked.search(vectors_BD, wanted)
    assert [len(each.rows) for each in found] == [15, 3, 20]
    answers = ranked.rank(histories(), found)
    assert [len(each.rows) for each in answers] == [3, 3, 20]
    top20 = [each.rows.tolist() for each in bundle.search(vectors_BD, [Want(20)] * 3)]
    assert answers[0].rows.tolist() == sorted(top20[0][:15], key=lambda row: (-(row // 2), row))[:3]
    # What lies below the ranker's depth keeps its place, below everything that was ranked.
    assert answers[2].rows.tolist() == sorted(top20[2][:15], key=lambda row: (-(row // 2), row)) + top20[2][15:]
    assert (np.diff(answers[2].scores) <= 0).all()
    assert answers[1].rows.tolist() == bundle.search(vectors_BD, wanted)[1].rows.tolist()


def test_ranker_is_not_asked_for_nothing(bundle: Bundle) -> None:
    nothing = Want(3, allowed_rows=np.empty(0, dtype=np.int64))
    (found,) = replace(bundle, ranker=ByRow()).retrieve(histories().select([0]), [nothing])
    assert len(found.rows) == 0
    assert found.exhausted


def test_long_histories_are_cut_to_the_window(bundle: Bundle) -> None:
    whole = bundle.encode(HistoryBatch.of([list(range(30))])).vectors_BD
    window = bundle.encode(HistoryBatch.of([list(range(18, 30))])).vectors_BD
    assert torch.equal(whole, window)


def test_empty_history_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="empty history"):
        bundle.encode(HistoryBatch.of([[1], []]))


def test_an_encoder_that_does_not_grow_ignores_states(bundle: Bundle) -> None:
    plain, given = bundle.encode(histories()), bundle.encode(histories(), [None, None, None])
    assert torch.equal(plain.vectors_BD, given.vectors_BD)
    assert given.states == (None, None, None)


def test_popular_items_come_by_popularity(bundle: Bundle) -> None:
    (found,) = bundle.popular([Want(5, excluded_rows=np.array([8, 10_000, -1]))])
    popularity = bundle.catalog.popularity
    expected = sorted((row for row in range(40) if row != 8), key=lambda row: (-popularity[row], row))[:5]
    assert found.rows.tolist() == expected
    assert found.scores.tolist() == [float(popularity[row]) for row in expected]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # a bundle does not change
@given(
    k=st.integers(1, 50),
    excluded=st.lists(st.integers(-1, 41)),
    allowed=st.none() | st.lists(st.integers(-1, 41)),
    categories=st.none() | st.lists(st.sampled_from(["even", "odd", "rare", "none"]), unique=True),
)
def test_popular_items_obey_every_filter(
    bundle: Bundle, k: int, excluded: list[int], allowed: list[int] | None, categories: list[str] | None
) -> None:
    carried: dict[str, Sequence[int]] = {"even": range(0, 40, 2), "odd": range(1, 40, 2), "rare": [3]}
    rows = set(range(40)) - set(excluded)
    if allowed is not None:
        rows &= set(allowed)
    if categories is not None:
        rows &= {row for name in categories for row in carried.get(name, ())}
    expected = sorted(rows, key=lambda row: (-bundle.catalog.popularity[row], row))[:k]
    want = Want(
        k,
        excluded_rows=np.array(excluded, dtype=np.int64),
        allowed_rows=None if allowed is None else np.array(allowed, dtype=np.int64),
        categories=None if categories is None else tuple(categories),
    )
    (found,) = bundle.popular([want])
    assert found.rows.tolist() == expected
    assert found.exhausted == (len(expected) < k)


def test_popular_items_of_a_broad_category_are_found_without_sorting(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service asks on its event loop; sorting half of 100,000 items took 10 ms for each of a batch call's hundred."""
    isin = np.isin
    bundle.catalog.categories, bundle.catalog.by_popularity  # noqa: B018 - sorted once, when a version is warmed

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("sorted")

    def few(rows: Rows, among: Rows) -> object:
        assert max(len(rows), len(among)) <= 5
        return isin(rows, among)

    for name in ("unique", "sort", "argsort", "lexsort"):
        monkeypatch.setattr(np, name, refuse)
    monkeypatch.setattr(np, "isin", few)
    for categories in (("even",), ("even", "odd")):
        (found,) = bundle.popular([Want(5, categories=categories)])
        assert len(found.rows) == 5


def test_nothing_in_a_bundle_can_be_trained(bundle: Bundle) -> None:
    assert not bundle.encoder.training
    assert not any(parameter.requires_grad for parameter in bundle.encoder.parameters())


class Summing(QueryEncoder):
    """Grows: the state is the sum of the item vectors so far."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.config = bundle.encoder.config
        self.dim, self.max_history, self.jump = bundle.manifest.dim, 12, 3
        self.items = nn.Parameter(torch.from_numpy(bundle.index.vectors_ND.copy()), requires_grad=False)
        self.read: list[list[int]] = []

    def forward(self, histories: HistoryBatch) -> Tensor:
        return torch.stack(
            [self.items[history.long()].sum(dim=0) for history in map(histories.history, range(len(histories)))]
        )

    def extend(self, states: list[UserState | None], new: HistoryBatch) -> Encoded:
        self.read = [new.history(b).tolist() for b in range(len(new))]
        known = [state.rows if state else () for state in states]
        rows = [(*past, *read) for past, read in zip(known, self.read, strict=True)]
        return Encoded(self.forward(HistoryBatch.of(rows)), tuple(UserState(each, ()) for each in rows))


def test_a_growing_encoder_reads_only_what_is_new(bundle: Bundle) -> None:
    encoder = Summing(bundle)
    bundle = replace(bundle, encoder=encoder)
    known = bundle.encode(HistoryBatch.of([[1, 2], [5], [18, 19]]), [None, None, None]).states
    grown = bundle.encode(histories(), known)
    # The second is known whole (there is nothing to read it from), the third in the window that it now has.
    assert encoder.read == [[3], [5], list(range(20, 30))]
    assert torch.allclose(grown.vectors_BD, bundle.encode(histories()).vectors_BD)
    assert [state.rows for state in grown.states if state] == [(1, 2, 3), (5,), tuple(range(18, 30))]


def test_a_foreign_state_is_not_used(bundle: Bundle) -> None:
    encoder = Summing(bundle)
    bundle = replace(bundle, encoder=encoder)
    bundle.encode(HistoryBatch.of([[1, 2, 3]]), [UserState((2, 1), ())])
    assert encoder.read == [[1, 2, 3]]


def test_loaded_twice_answers_the_same(bundle_folder: Path) -> None:
    first, second = Bundle.load(bundle_folder), Bundle.load(bundle_folder)
    for a, b in zip(first.retrieve(histories(), wants()), second.retrieve(histories(), wants()), strict=True):
        assert a.rows.tolist() == b.rows.tolist()
        assert a.scores.tolist() == b.scores.tolist()


def test_what_is_loaded_is_what_was_trained(
    store: ModelStore, tiny_parts: Callable[..., BundleParts], provenance: Provenance
) -> None:
    parts = tiny_parts(seed=5)
    bundle = store.open(store.publish(store.stage(parts, provenance=provenance)))
    assert torch.equal(torch.from_numpy(bundle.index.vectors_ND), parts.item_vectors_ND)
    assert bundle.catalog.frame.equals(parts.catalog.frame)
    with torch.inference_mode():
        assert torch.equal(bundle.encode(histories().select([0])).vectors_BD, parts.encoder(histories().select([0])))


def test_the_tensors_are_in_memory_of_their_own(bundle_folder: Path) -> None:
    bundle = Bundle.load(bundle_folder)
    before = bundle.encode(histories()).vectors_BD
    for file in bundle_folder.rglob("*"):
        if file.is_file():
            with file.open("r+b") as opened:
                opened.truncate(0)  # a mapped file would now end the process with SIGBUS
    assert torch.equal(bundle.encode(histories()).vectors_BD, before)
    assert len(bundle.retrieve(histories(), wants())) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_gpu_answers_the_same(bundle_folder: Path) -> None:
    on_gpu, on_cpu = Bundle.load(bundle_folder, "cuda"), Bundle.load(bundle_folder)
    vectors_BD = on_cpu.encode(histories()).vectors_BD
    for a, b in zip(on_gpu.search(vectors_BD, wants()), on_cpu.search(vectors_BD, wants()), strict=True):
        assert a.rows.tolist() == b.rows.tolist()
        assert a.scores.tolist() == b.scores.tolist()


def a_language_model(**options: object) -> LanguageModelEncoder:
    lm = LlamaConfig(vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    config = LanguageModelConfig.model_validate(
        {"lm": lm.to_dict(), "items": 40, "dim": 8, "max_history": 12, "jump": 3, **options}
    )
    torch.manual_seed(0)
    encoder = config.build().eval()
    generator = torch.Generator().manual_seed(0)
    for name in ("prefix_inputs", "suffix_inputs", "item_inputs", "token_inputs"):
        if (table := getattr(encoder, name, None)) is not None:
            table.normal_(generator=generator)
    if hasattr(encoder, "item_tokens"):
        encoder.item_tokens.tokens.copy_(torch.randint(0, 5, (80,), generator=generator))
        encoder.item_tokens.offsets.copy_(torch.arange(41) * 2)
    return encoder


@pytest.mark.parametrize("native", [True, False], ids=["native bfloat16", "emulated bfloat16"])
@pytest.mark.parametrize(
    "options",
    [
        {"item_input": "vector", "pooling": "mean"},
        {"item_input": "vector", "dtype": "bfloat16"},
        {"item_input": "tokens+vector", "vocabulary": 5, "item_tokens": 80, "prefix": (1, 2), "suffix": (3,)},
        {"item_input": "tokens", "vocabulary": 5, "item_tokens": 80, "causal": False, "pooling": "mean"},
    ],
)
def test_a_language_model_comes_back_from_disk(
    store: ModelStore,
    tiny_parts: Callable[..., BundleParts],
    provenance: Provenance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
    native: bool,
) -> None:
    """Bit for bit: in bfloat16 where the processor multiplies it, else in float32 with the same, rounded weights."""
    monkeypatch.setattr(encoder_files, "multiplies_bfloat16", lambda device: native)
    encoder = a_language_model(**options)
    parts = replace(tiny_parts("language-model"), encoder=encoder, controls={})
    version = store.publish(store.stage(parts, provenance=provenance))
    opened = Bundle.open(prepare(store.folder(version), tmp_path / "cache"))
    assert (store.folder(version) / "item_tokens.safetensors").exists() == hasattr(encoder, "item_tokens")
    in_bfloat16 = native and encoder.config.dtype == "bfloat16"
    assert opened.encoder.get_buffer("prefix_inputs").dtype == (torch.bfloat16 if in_bfloat16 else torch.float32)
    with torch.inference_mode():
        as_trained_BD = encoder(histories().windowed(12, 3))
        if not native:
            encoder.compute_in(torch.float32)
        vectors_BD = opened.encode(histories()).vectors_BD
        assert torch.equal(vectors_BD, encoder(histories().windowed(12, 3)))
    cosines_B = torch.nn.functional.cosine_similarity(vectors_BD, as_trained_BD)
    assert float(cosines_B.min()) >= 1 - opened.manifest.golden.cosine
    assert opened.manifest.dtype == encoder.config.dtype, "what is stored is what was trained, whatever computes here"
    assert (opened.encode(histories(), [None] * 3).states[0] is not None) == encoder.config.causal


@pytest.mark.parametrize("kind", ["sequence", "language model"])
def test_a_bundle_is_freed_without_the_collector(
    store: ModelStore, tiny_parts: Callable[..., BundleParts], provenance: Provenance, kind: str
) -> None:
    """A service sets what it has imported aside from the collector, and bundles in memory with it; and a collection
    would stall it."""
    parts = tiny_parts()
    if kind == "language model":
        parts = replace(parts, encoder=a_language_model(item_input="vector"), controls={})
    opened = store.open(store.publish(store.stage(parts, provenance=provenance)))
    opened.retrieve(histories(), wants())
    left = [weakref.ref(part) for part in (*opened.encoder.modules(), *opened.encoder.parameters(), opened.index)]
    gc.disable()
    try:
        del opened
        assert not [reference() for reference in left if reference() is not None]
    finally:
        gc.enable()
