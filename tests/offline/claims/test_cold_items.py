from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from offline.claims import worlds
from offline.claims.claim import Finding
from offline.claims.cold_items import cold_items
from offline.claims.inputs import ColdDraw

BLUR = {"contriever": 0.0, "llm2vec": 0.1, "tfidf-knn": 1.5, "sasrec-regression": 1.5, "sasrec": 100.0}


def _measured(*draws: ColdDraw, minutes: dict[str, float] | None = None) -> Finding:
    cold = {f"cold-items-{n}": draw for n, draw in enumerate(draws)}
    return cold_items(cold, minutes=minutes or {}, draws=1_000, seed=0)


def test_families_that_read_the_text_are_found_better_on_items_that_text_determines() -> None:
    found = _measured(*(worlds.cold_items(noise=BLUR, seed=seed) for seed in range(3)))
    assert found.estimate is not None
    assert found.estimate.low > 0
    rows: Any = found.details["beside"]
    by_arm = {row["arm"]: row["value"] for row in rows}
    assert by_arm["contriever"] > by_arm["tfidf-knn"] > by_arm["sasrec"]
    assert by_arm["sasrec"] == pytest.approx(10 / 60, abs=0.05)
    assert found.seeds == 15, "five runs on each of three draws"


def test_families_that_read_it_no_better_are_not() -> None:
    found = _measured(worlds.cold_items(noise=dict.fromkeys(BLUR, 1.0)))
    assert found.estimate is not None
    assert found.estimate.low < 0


def test_one_baseline_is_enough_to_be_worse_and_not_to_be_better() -> None:
    noise = {name: BLUR[name] for name in ("contriever", "tfidf-knn")}
    found = _measured(worlds.cold_items(noise=noise))
    assert found.holds_back == "there are no runs of sasrec-regression"
    assert found.contrast.startswith("recall@10 among cold items, contriever minus")


def test_items_are_drawn_too() -> None:
    """One item that everybody wants, found by text alone: many events say no more than one."""
    users = np.arange(300, dtype=np.int32)
    targets = np.repeat(np.array([0, 1, 2], dtype=np.int32), 100)
    hits = worlds.Ranked(np.tile(np.where(targets == 0, 1, 0).astype(np.int32), (5, 1)), users)
    misses = worlds.Ranked(np.zeros((5, 300), dtype=np.int32), users)
    draw = ColdDraw(targets, among={"contriever": hits, "tfidf-knn": misses, "sasrec-regression": misses})
    found = _measured(draw)
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(1 / 3)
    assert found.estimate.low <= 0


def test_no_draw_is_not_measured() -> None:
    assert "no runs of contriever" in _measured().missing
