from __future__ import annotations

import json
from pathlib import Path

import pytest

from offline.compare.cold import ColdRow
from offline.compare.results import TRAINING_STEP, _training_step
from offline.compare.targets import BARE_BY_OUR_PRODUCTS, Reached, Target, targets_of


def training_step(report: Path) -> Target:
    reached = Reached("ml-100k", {}, [], [], training_step=_training_step(report))
    (target,) = [one for one in targets_of(reached) if one.name.startswith("Training step")]
    return target


@pytest.mark.parametrize(("slowest", "held"), [(1.2, True), (1.21, False)])
def test_the_training_step_is_told_as_the_bench_wrote_it(tmp_path: Path, slowest: float, held: bool) -> None:
    (tmp_path / TRAINING_STEP).write_text(json.dumps({"E4SRec": 1.1, "iLoRA": slowest}))
    told = training_step(tmp_path)
    assert (told.value, told.held) == (f"E4SRec: 1.10 x; iLoRA: {slowest:.2f} x", held)


def test_both_readings_of_the_bare_pass_are_told(tmp_path: Path) -> None:
    (tmp_path / TRAINING_STEP).write_text(json.dumps({BARE_BY_OUR_PRODUCTS: 0.5, "E4SRec": 0.7}))
    told = training_step(tmp_path)
    assert (told.value, told.held) == ("E4SRec: 0.70 x (over a bare pass by the same products: 1.40)", True)


def test_a_training_step_that_nobody_timed_is_not_held(tmp_path: Path) -> None:
    told = training_step(tmp_path)
    assert (told.value, told.held) == (None, None)


def _cold(arm: str, recall: float, against: tuple[float, float, float] | None, *, full: float = 0.03) -> ColdRow:
    return ColdRow(arm, "-", True, 3, recall, 0.0, 1.0, full, 0.1, 0.1, against)


def _cold_targets(*rows: ColdRow) -> dict[str, Target]:
    reached = Reached("ml-100k", {}, [], list(rows))
    return {one.name: one for one in targets_of(reached) if one.name.startswith("contriever, recall@10")}


def test_new_items_count_as_an_owner_of_new_items_would_have_them_placed() -> None:
    nearest = _cold("tfidf-knn", 0.27, None, full=0.05)
    alone = _cold("contriever", 0.29, (0.02, -0.03, 0.07))
    above, stretch, whole = _cold_targets(nearest, alone).values()
    assert (above.value, above.held) == ("0.290; +0.020 (-0.030 to +0.070)", False)
    placed = _cold("contriever-regression", 0.41, (0.14, 0.08, 0.2), full=0.05)
    above, stretch, whole = _cold_targets(nearest, alone, placed).values()
    assert above.value == "0.410; +0.140 (+0.080 to +0.200); its text tower alone 0.290"
    assert (above.held, stretch.held, whole.held) == (True, True, True)
    assert whole.value == "0.050 against 0.050"
