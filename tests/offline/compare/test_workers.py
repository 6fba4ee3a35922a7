from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest

from offline.compare import workers
from offline.compare.plan import Plan, Unit
from offline.compare.settings import Settings
from offline.compare.workers import do_all


def _work(unit: Unit, folder: Path) -> None:
    if unit.arm == "refused":
        raise ValueError("this cannot\nbe")
    if unit.arm == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if unit.arm == "late":
        time.sleep(60)
    (folder / unit.arm).write_text(str(time.monotonic()))


def _unit(arm: str, *needs: str, minutes: float = 1.0) -> Unit:
    return Unit("train", arm, "last-10", 0, minutes, frozenset(f"train {need} last-10 seed 0" for need in needs))


def test_what_fails_takes_what_needs_it_along_and_nothing_else(
    settings_of: Callable[..., Settings], tmp_path: Path
) -> None:
    units = [_unit("refused"), _unit("child", "refused"), _unit("grandchild", "child")]
    units += [
        _unit("killed", minutes=9),
        _unit("first", minutes=2),
        _unit("second", "first"),
        _unit("alone", minutes=0),
    ]
    said: list[str] = []
    settings = settings_of()
    failed = do_all(
        Plan(settings, (), ("last-10",), tuple(units), 0, {}), partial(_work, folder=tmp_path), say=said.append
    )
    name = "train {} last-10 seed 0".format
    assert failed == {
        name("refused"): "ValueError: this cannot be",
        name("child"): f"needs {name('refused')}",
        name("grandchild"): f"needs {name('child')}",
        name("killed"): "its process died (exit code -9)",
    }
    written = {
        path.name: float(path.read_text()) for path in tmp_path.iterdir() if path.is_file() and path.suffix == ""
    }
    assert set(written) == {"first", "second", "alone"}
    assert written["first"] < written["second"], "what is needed comes first"
    assert said[0].startswith("[1/7] train killed"), "longest chain first"
    assert "FAILED: its process died" in said[0]


def test_what_was_trained_is_scored_before_the_next_is_trained(
    settings_of: Callable[..., Settings], tmp_path: Path
) -> None:
    units = [_unit("first", minutes=9), _unit("second", minutes=8)]
    units += [Unit("score", unit.arm, "last-10", 0, 0.1, frozenset([unit.name])) for unit in units]
    said: list[str] = []
    plan = Plan(settings_of(jobs=1), (), ("last-10",), tuple(units), 0, {})
    assert do_all(plan, partial(_work, folder=tmp_path), say=said.append) == {}
    assert [line.split()[1:3] for line in said] == [
        [kind, arm] for arm in ("first", "second") for kind in ("train", "score")
    ]
    assert plan.hours == pytest.approx(17.2 / 60)


def test_nothing_is_begun_after_the_deadline(settings_of: Callable[..., Settings], tmp_path: Path) -> None:
    plan = Plan(settings_of(), (), ("last-10",), (_unit("late"),), 0, {})
    failed = do_all(plan, partial(_work, folder=tmp_path), say=print, deadline=time.monotonic() - 1)
    assert failed == {"train late last-10 seed 0": "not begun: the hours are over"}
    assert not (tmp_path / "late").exists()


def test_what_takes_too_long_is_stopped_and_said_to_be(
    settings_of: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "LONGEST_UNIT", 0.0)
    monkeypatch.setattr(workers, "wait", _wait_briefly)
    plan = Plan(settings_of(), (), ("last-10",), (_unit("late"),), 0, {})
    failed = do_all(plan, partial(_work, folder=tmp_path), say=lambda _: None)
    assert failed == {"train late last-10 seed 0": "stopped after 0 minutes, the most that a unit may take"}


def _wait_briefly(connections: list[Any], timeout: float) -> list[Any]:
    return wait(connections, timeout=min(timeout, 0.1))
