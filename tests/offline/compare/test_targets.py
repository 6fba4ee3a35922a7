from __future__ import annotations

import json
from pathlib import Path

import pytest

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
