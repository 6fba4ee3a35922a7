"""A bundle with an overlay against a bundle that had the merged catalogue from the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from app import serving as serving_module
from app.item_records import ItemRecord
from app.item_records import Sequence as Number
from app.overlay import Change, Overlay
from app.serving import Serving
from model_store.bundle import Bundle
from model_store.catalog import ItemCatalog
from model_store.encoders.history import HistoryBatch, QueryEncoder
from model_store.item_index import ItemIndex
from model_store.manifest import Manifest
from model_store.ranker import Ranker
from model_store.retrieval import Candidates, Want

CATEGORIES = ("a", "b", "c")


@dataclass
class Line:
    """An item of the brute-force catalogue, at the row that it must be found under."""

    row: int
    item_id: str
    title: str
    categories: tuple[str, ...]
    popularity: int
    vector: np.ndarray[tuple[int], np.dtype[np.float32]]


class Reversing(Ranker):
    """Turns the first five round."""

    depth = 5

    def score(self, histories: HistoryBatch, item_rows_BK: Tensor, retriever_BK: Tensor) -> Tensor:
        assert int(item_rows_BK.max()) < 40, "a ranker never meets a row that it does not know"
        return torch.where(item_rows_BK >= 0, torch.arange(item_rows_BK.shape[1]).double(), -torch.inf)


def bundle_of(lines: Sequence[Line], ranker: Ranker | None = None) -> Bundle:
    frame = pl.DataFrame(
        {
            "item_id": [line.item_id for line in lines],
            "title": [line.title for line in lines],
            "text": pl.Series([None] * len(lines), dtype=pl.String),
            "categories": pl.Series([list(line.categories) for line in lines], dtype=pl.List(pl.String)),
            "popularity": [line.popularity for line in lines],
        }
    )
    index = ItemIndex.of(np.stack([line.vector for line in lines]))
    manifest = cast("Manifest", SimpleNamespace(max_history=10, jump=2, version="v"))
    return Bundle(manifest, ItemCatalog(frame), cast("QueryEncoder", None), index, ranker)


@dataclass
class Case:
    serving: Serving
    merged: list[Line]
    vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    wants: list[Want]


def make_case(seed: int, *, items: int, changes: int, ties: bool, ranker: Ranker | None = None) -> Case:
    rng = np.random.default_rng(seed)
    dim = int(rng.choice([1, 4, 9]))

    def vector() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        drawn = rng.normal(size=dim).astype(np.float32)
        return drawn.round() if ties else drawn

    def categories() -> tuple[str, ...]:
        return tuple(name for name in CATEGORIES if rng.random() < 0.4)

    lines = [
        Line(row, f"i{row}", f"Film {row}", categories(), int(rng.integers(0, 5)), vector()) for row in range(items)
    ]
    bundle = bundle_of(lines, ranker)
    base = {line.item_id: line for line in lines}
    merged, overlay = dict(base), Overlay()
    for step in range(changes):
        item_id = f"i{rng.integers(0, items + 8)}"
        kind = rng.choice(["put", "put", "remove", "forget"])
        number = Number(step, 0)
        if kind == "put":
            record = ItemRecord(item_id, number, f"New {step}", None, categories())
            change = Change(item_id, record, vector())
            assert change.vector_D is not None
            popularity = base[item_id].popularity if item_id in base else 0
            merged[item_id] = Line(
                overlay.next_row or items, item_id, record.title, record.categories, popularity, change.vector_D
            )
        elif kind == "remove":
            change = Change(item_id, ItemRecord(item_id, number, removed=True))
            merged.pop(item_id, None)
        else:
            change = Change(item_id, None)
            merged.pop(item_id, None)
            if item_id in base:
                merged[item_id] = base[item_id]
        before = overlay.next_row or items
        overlay = overlay.changed(bundle.catalog, [change])
        assert overlay.next_row == before + (kind != "forget")
    most = (overlay.next_row or items) + 3
    wants = [
        Want(
            int(rng.choice([1, 3, 20, 100])),
            rerank=bool(rng.integers(2)),
            excluded_rows=rng.integers(-2, most, int(rng.choice([0, 2, 30]))),
            allowed_rows=None if rng.random() < 0.5 else np.flatnonzero(rng.random(most) < rng.choice([0, 0.2, 0.9])),
            categories=None if rng.random() < 0.6 else tuple(rng.choice(["a", "c", "none"], 2)),
        )
        for _ in range(4)
    ]
    vectors = np.stack([vector() for _ in wants])
    return Case(Serving(bundle, overlay), sorted(merged.values(), key=lambda line: line.row), vectors, wants)


def brute_force(case: Case, want: Want, scores: np.ndarray[tuple[int], np.dtype[np.float64]], k: int) -> Candidates:
    kept = [
        place
        for place, line in enumerate(case.merged)
        if line.row not in set(want.excluded_rows.tolist())
        and (want.allowed_rows is None or line.row in set(want.allowed_rows.tolist()))
        and (want.categories is None or set(want.categories) & set(line.categories))
    ]
    rows = np.array([case.merged[place].row for place in kept], dtype=np.int64)
    kept_scores = scores[kept] if kept else np.empty(0)
    order = np.lexsort((rows, -kept_scores))[:k]
    return Candidates(want, rows[order], kept_scores[order], exhausted=len(order) < want.k)


def same(found: Candidates, expected: Candidates) -> None:
    assert found.rows.tolist() == expected.rows.tolist()
    assert found.scores.tolist() == expected.scores.tolist()
    assert found.exhausted == expected.exhausted
    assert found.want is expected.want


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    items=st.integers(1, 40),
    changes=st.integers(0, 60),
    ties=st.booleans(),
    gathered=st.booleans(),
)
def test_search_and_popular_equal_brute_force(
    seed: int, items: int, changes: int, *, ties: bool, gathered: bool
) -> None:
    case = make_case(seed, items=items, changes=changes, ties=ties)
    with pytest.MonkeyPatch.context() as patch:
        if gathered:
            patch.setattr(serving_module, "MOST_DROPPED", 0)
        found = case.serving.search(case.vectors, case.wants)
        popular = case.serving.popular(case.wants)
    if not case.merged:
        assert all(one.rows.tolist() == [] and one.exhausted for one in (*found, *popular))
        return
    merged_ND = np.stack([line.vector for line in case.merged]).astype(np.float64)
    popularity = np.array([line.popularity for line in case.merged], dtype=np.float64)
    for b, want in enumerate(case.wants):
        scores = (merged_ND * case.vectors[b].astype(np.float64)).sum(axis=1)
        same(found[b], brute_force(case, want, scores, want.k))
        same(popular[b], brute_force(case, want, popularity, want.k))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), changes=st.integers(0, 40))
def test_what_is_said_of_items_equals_the_merged_catalogue(seed: int, changes: int) -> None:
    case = make_case(seed, items=20, changes=changes, ties=False)
    serving, by_id = case.serving, {line.item_id: line for line in case.merged}
    asked = [f"i{n}" for n in range(30)]
    rows, unknown = serving.rows(asked)
    assert unknown == [item_id for item_id in asked if item_id not in by_id]
    assert rows == [by_id[item_id].row for item_id in asked if item_id in by_id]
    assert serving.ids(np.array(rows)) == [item_id for item_id in asked if item_id in by_id]
    assert serving.titles(np.array(rows)) == [by_id[item_id].title for item_id in asked if item_id in by_id]
    for line in case.merged:
        said = serving.describe(line.row)
        assert (said["title"], said["popularity"]) == (line.title, line.popularity)
        assert (serving.vector(line.row) == line.vector).all()
    history = serving.history(asked)
    assert history.readable == list(range(20)), "the encoder reads what it learnt, changed or removed since or not"
    assert set(history.seen) >= set(rows)
    assert history.unknown == [f"i{n}" for n in range(20, 30) if f"i{n}" not in by_id]
    for text in ("", "new", "film", "NEW 1", "nothing"):
        words = text.lower().split()
        expected = sorted(
            (line for line in case.merged if all(word in line.title.lower() for word in words)),
            key=lambda line: (-line.popularity, line.row),
        )
        assert serving.search_titles(text, 7) == [line.row for line in expected][:7]


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), changes=st.integers(0, 40))
def test_a_ranker_reorders_around_the_added_items(seed: int, changes: int) -> None:
    case = make_case(seed, items=40, changes=changes, ties=False, ranker=Reversing())
    found = case.serving.search(case.vectors, case.wants)
    histories = HistoryBatch.of([[0]] * len(found))
    for before, after in zip(found, case.serving.rank(histories, found), strict=True):
        assert len(after.rows) == min(after.want.k, len(before.rows))
        added = [place for place, row in enumerate(before.rows) if row >= 40]
        assert [place for place, row in enumerate(after.rows) if row >= 40] == [p for p in added if p < after.want.k]
        assert all(after.rows[place] == before.rows[place] for place in added if place < after.want.k)
        known = [row for row in before.rows.tolist() if row < 40]
        depth = min(5, len(known)) if after.want.rerank else 0
        expected = known[:depth][::-1] + known[depth:]
        shown = [row for row in after.rows.tolist() if row < 40]
        assert shown == expected[: len(shown)]
        assert sorted(after.scores.tolist(), reverse=True) == after.scores.tolist()


def test_an_older_overlay_goes_on_as_it_was() -> None:
    case = make_case(3, items=10, changes=0, ties=False)
    catalog, old = case.serving.bundle.catalog, case.serving.overlay
    put = Change("x", ItemRecord("x", Number(1, 0), "X"), case.vectors[0])
    new = old.changed(catalog, [put])
    again = new.changed(catalog, [put])
    assert old.items == {}
    assert (new.items["x"].row, again.items["x"].row) == (10, 11), "a row number is never used again"
    assert new.has(ItemRecord("x", Number(1, 0)))
    assert not new.has(ItemRecord("x", Number(2, 0)))


def test_more_than_a_thousand_hidden_rows_are_never_fetched() -> None:
    rng = np.random.default_rng(0)
    lines = [Line(row, f"i{row}", "", (), 0, rng.normal(size=8).astype(np.float32)) for row in range(3000)]
    serving = Serving.of(bundle_of(lines))
    gone = [Change(f"i{n}", ItemRecord(f"i{n}", Number(1, n), removed=True)) for n in range(1500)]
    serving = Serving(serving.bundle, serving.overlay.changed(serving.bundle.catalog, gone))
    query = rng.normal(size=(1, 8)).astype(np.float32)
    (found,) = serving.search(query, [Want(10)])
    (expected,) = serving.bundle.search(query, [Want(10, allowed_rows=np.arange(1500, 3000))])
    assert found.rows.tolist() == expected.rows.tolist()
    assert serving._of_bundle(Want(10)).allowed_rows is not None
