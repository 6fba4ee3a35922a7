from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store import item_index
from model_store.index_memory import Floats
from model_store.item_index import ItemIndex
from model_store.retrieval import Candidates, Rows, Want


def brute_force(
    index: ItemIndex, vector_D: Floats, want: Want
) -> tuple[Rows, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    scores = (index.vectors_ND.astype(np.float64) * vector_D.astype(np.float64)).sum(axis=1)
    allowed = np.ones(len(index), dtype=bool)
    if want.allowed_rows is not None:
        allowed = np.isin(np.arange(len(index)), want.allowed_rows)
    allowed &= ~np.isin(np.arange(len(index)), want.excluded_rows)
    rows = np.flatnonzero(allowed)
    order = np.lexsort((rows, -scores[rows]))[: want.k]
    return rows[order], scores[rows[order]]


def same(found: Candidates, index: ItemIndex, vector_D: Floats) -> None:
    rows, scores = brute_force(index, vector_D, found.want)
    assert found.rows.tolist() == rows.tolist()
    assert found.scores.tolist() == scores.tolist()
    assert found.exhausted == (len(rows) < found.want.k)


@dataclass(frozen=True)
class Case:
    index: ItemIndex
    vectors_BD: Floats
    wants: list[Want]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    items, dim, queries = draw(st.integers(1, 300)), draw(st.sampled_from([1, 3, 8, 33])), draw(st.integers(1, 9))
    kind = draw(st.sampled_from(["small integers", "copies", "normal"]))
    vectors_ND = rng.normal(size=(items, dim)).astype(np.float32)
    vectors_BD = rng.normal(size=(queries, dim)).astype(np.float32)
    if kind == "small integers":  # many exact ties
        vectors_ND, vectors_BD = vectors_ND.round(), vectors_BD.round()
    elif kind == "copies":  # the same vector many times, at unlike places
        vectors_ND = vectors_ND[rng.integers(0, max(1, items // 8), items)]
    wants = []
    for _ in range(queries):
        excluded = rng.integers(-3, items + 5, draw(st.sampled_from([0, 2, 30, 400])))
        share = draw(st.sampled_from([None, 0.0, 0.05, 0.3, 0.9]))
        allowed = None if share is None else np.flatnonzero(rng.random(items + 3) < share)
        wants.append(Want(draw(st.sampled_from([1, 5, 40, 300])), excluded_rows=excluded, allowed_rows=allowed))
    return Case(ItemIndex.of(vectors_ND), vectors_BD, wants)


@settings(max_examples=150, deadline=None)
@given(cases())
def test_search_equals_brute_force(case: Case) -> None:
    together = case.index.search(case.vectors_BD, case.wants)
    for b, found in enumerate(together):
        same(found, case.index, case.vectors_BD[b])
        (alone,) = case.index.search(case.vectors_BD[b : b + 1], [case.wants[b]])
        assert alone.rows.tolist() == found.rows.tolist()
        assert alone.scores.tolist() == found.scores.tolist()


def test_every_path_agrees_on_a_larger_index(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    index = ItemIndex.of(rng.normal(size=(20_000, 32)).astype(np.float32))
    vectors_BD = rng.normal(size=(8, 32)).astype(np.float32)
    wants = [
        Want(10),
        Want(1000),
        Want(10, excluded_rows=np.arange(1500)),
        Want(1000, excluded_rows=np.arange(1500)),  # past the GPU's limit
        Want(10, allowed_rows=np.arange(0, 20_000, 2)),  # broad: over-fetched
        Want(10, allowed_rows=np.arange(0, 20_000, 100)),  # small: gathered
        Want(10, allowed_rows=np.arange(0, 20_000, 2), excluded_rows=np.arange(0, 20_000, 4)),
        Want(10, allowed_rows=np.empty(0, dtype=np.int64)),
    ]
    for vector_D, found in zip(vectors_BD, index.search(vectors_BD, wants), strict=True):
        same(found, index, vector_D)
    monkeypatch.setattr(item_index, "MARGIN", 0)  # the first fetch is rarely enough then, and is widened
    for vector_D, found in zip(vectors_BD, index.search(vectors_BD, wants), strict=True):
        same(found, index, vector_D)


def test_a_few_items_of_a_want_do_not_need_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    index = ItemIndex.of(rng.normal(size=(5_000, 16)).astype(np.float32))

    def refuse(self: ItemIndex, query: object) -> None:
        raise AssertionError("scored the whole matrix")

    monkeypatch.setattr(ItemIndex, "_by_scoring", refuse)
    wants = [Want(10, excluded_rows=np.arange(200)), Want(100)]
    vectors_BD = rng.normal(size=(2, 16)).astype(np.float32)
    for vector_D, found in zip(vectors_BD, index.search(vectors_BD, wants), strict=True):
        same(found, index, vector_D)


def test_counts_may_exceed_k() -> None:
    index = ItemIndex.of(np.eye(6, dtype=np.float32))
    (found,) = index.search(np.ones((1, 6), dtype=np.float32), [Want(2)], counts=[4])
    assert found.rows.tolist() == [0, 1, 2, 3]
    assert not found.exhausted


def test_scores_do_not_depend_on_what_else_is_scored() -> None:
    rng = np.random.default_rng(2)
    index = ItemIndex.of(rng.normal(size=(10_000, 67)).astype(np.float32))
    vector_D = rng.normal(size=67).astype(np.float32)
    rows = rng.permutation(10_000)
    together = index.exact_scores(vector_D, rows)
    alone = [float(index.exact_scores(vector_D, rows[i : i + 1])[0]) for i in range(0, 10_000, 97)]
    assert together[::97].tolist() == alone


def test_huge_vectors_are_still_ordered() -> None:
    index = ItemIndex.of(np.array([[1e30, 1e30], [1e30, -1e30], [2e30, 0]] * 20, dtype=np.float32))
    vector_BD = np.array([[1e30, 1e30]], dtype=np.float32)  # overflows in float32
    (found,) = index.search(vector_BD, [Want(30)])
    same(found, index, vector_BD[0])


def test_tiny_vectors_are_still_ordered() -> None:
    rng = np.random.default_rng(4)
    index = ItemIndex.of(rng.normal(size=(400, 5)).astype(np.float32) * np.float32(1e-25))
    vector_BD = rng.normal(size=(1, 5)).astype(np.float32) * np.float32(1e-25)  # underflows in float32
    (found,) = index.search(vector_BD, [Want(10)])
    same(found, index, vector_BD[0])


def test_written_and_read_gives_the_same(tmp_path: Path) -> None:
    vectors_ND = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    ItemIndex.of(vectors_ND).write(tmp_path / "items.faiss")
    index = ItemIndex.read(tmp_path / "items.faiss")
    assert (len(index), index.dim) == (50, 8)
    assert torch.equal(torch.from_numpy(index.vectors_ND), vectors_ND)
    assert index.max_norm == pytest.approx(float(vectors_ND.norm(dim=1).max()))


def test_vectors_outlive_the_index() -> None:
    vectors_ND = np.arange(6_000, dtype=np.float32).reshape(1000, 6)
    view = ItemIndex.of(vectors_ND).vectors_ND
    gc.collect()
    other = ItemIndex.of(vectors_ND + 1)  # would take the freed memory
    assert (view == vectors_ND).all()
    assert len(other) == 1000


def test_vectors_are_not_held_twice() -> None:
    index = ItemIndex.of(np.ones((100, 4), dtype=np.float32))
    assert index.vectors_ND.ctypes.data == index._matrix_ND.data_ptr()
    assert not index.vectors_ND.flags.owndata


def test_blas_is_used_for_small_batches() -> None:
    ItemIndex.of(np.ones((4, 24), dtype=np.float32))
    assert faiss.cvar.distance_compute_blas_threshold == 96


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    index = ItemIndex.of(np.ones((4, 2), dtype=np.float32))
    with pytest.raises(ValueError, match="query vector is not finite"):
        index.search(np.array([[1, bad]], dtype=np.float32), [Want(1)])
    with pytest.raises(ValueError, match="item vector is not finite"):
        ItemIndex.of(np.array([[1, bad]], dtype=np.float32))


@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (3,)])
def test_query_vectors_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="query vectors have shape"):
        ItemIndex.of(np.ones((4, 2), dtype=np.float32)).search(np.ones(shape, dtype=np.float32), [Want(1)])


@pytest.mark.parametrize("shape", [(0, 2), (2, 0), (3,)])
def test_item_vectors_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="item vectors have shape"):
        ItemIndex.of(np.ones(shape, dtype=np.float32))


def test_no_query_gives_no_answer() -> None:
    assert ItemIndex.of(np.ones((4, 2), dtype=np.float32)).search(np.empty((0, 2), dtype=np.float32), []) == []


@pytest.mark.gpu
@pytest.mark.skipif(not faiss.get_num_gpus(), reason="faiss sees no GPU")
def test_a_gpu_finds_the_same() -> None:
    rng = np.random.default_rng(3)
    vectors_ND = rng.normal(size=(5_000, 16)).astype(np.float32).round(1)
    vectors_BD = rng.normal(size=(4, 16)).astype(np.float32).round(1)
    wants = [
        Want(10),
        Want(1000, excluded_rows=np.arange(1500)),
        Want(10, allowed_rows=np.arange(0, 5_000, 100)),
        Want(10, allowed_rows=np.arange(0, 5_000, 2)),
    ]
    index = ItemIndex.of(vectors_ND, device="cuda")
    assert index.device.type == "cuda"
    for vector_D, found in zip(vectors_BD, index.search(vectors_BD, wants), strict=True):
        same(found, index, vector_D)
