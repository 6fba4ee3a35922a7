"""The table: what was not measured never counts as held, and a miss is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.torture.figures import Figures
from tests.torture.load import percentile_ms
from tests.torture.promises import PROMISES, Promise


def test_rows_are_held_missed_or_not_measured(tmp_path: Path) -> None:
    figures = Figures()
    held, missed, *_ = PROMISES
    figures.tell(held, 0)
    figures.tell(missed, 1)
    figures.not_measured("new item", "cannot be put yet")
    figures.write(tmp_path / "results.json")
    told = json.loads((tmp_path / "results.json").read_text())
    rows = {row["name"]: row for row in told["rows"]}
    assert list(rows) == list(PROMISES)
    assert all(set(row) == {"name", "value", "target", "held"} for row in rows.values())
    assert (rows[held]["held"], rows[missed]["held"], rows[missed]["value"]) == (True, False, 1)
    others = [row for name, row in rows.items() if name not in (held, missed)]
    assert all(row["held"] is None and row["value"] is None for row in others)
    assert told["not_measured"]["new item by PUT: in results after"] == "cannot be put yet"
    assert "MISSED" in figures.table()
    assert figures.table().count("not measured") == len(others)


def test_a_run_of_one_part_keeps_what_other_runs_have_measured(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    first, second, third, *_ = PROMISES
    earlier, later = Figures(), Figures()
    earlier.tell(first, 0)
    earlier.tell(second, 0)
    earlier.tell(third, 0)
    earlier.write(file)
    later.tell(first, 7)
    later.not_measured(third, "it broke")
    later.write(file)
    told = json.loads(file.read_text())
    assert [row["value"] for row in told["rows"]][:3] == [7, 0, None]
    assert set(told["measured_at"]) == {first, second}
    assert told["not_measured"][third] == "it broke"


def test_limits() -> None:
    assert Promise("a", 1.5, "x").target == "<= 1.5 x"
    assert Promise("a", 0).target == "0"
    assert Promise("a", 0.9, "x", at_least=True).target == ">= 0.9 x"
    assert Promise("a", 0.9, at_least=True).held(0.9)
    assert not Promise("a", 0).held(1)
    assert not Promise("a", 10).held(float("nan"))


def test_a_figure_that_is_no_line_is_refused() -> None:
    with pytest.raises(AssertionError, match="no line"):
        Figures().tell("something else", 1)


def test_percentiles() -> None:
    assert percentile_ms([0.001] * 99 + [1.0], 50) == pytest.approx(1)
