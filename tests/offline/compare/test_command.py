"""The whole of it on a small world: trained, killed half way, resumed, and the same page."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model_store.store import ModelStore
from offline.__main__ import main
from offline.compare import command
from offline.compare.plan import Plan
from offline.compare.settings import Settings
from offline.compare.units import carry_out
from offline.report.files import HTML, JSON, MARKDOWN
from offline.workspace import Workspace

ROOT = Path(__file__).parents[3]
SettingsOf = Callable[..., Settings]
TIMES = {"costs", "versions", "train_minutes", "measured", "curves", "command", "looks", "score_seconds"}
ARMS = ("e4srec", "sasrec+ease")


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if key not in TIMES}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


def _compare(settings: Settings, folder: Path, said: list[str], **only: bool) -> dict[str, str]:
    return command.compare(
        settings,
        store=ModelStore(folder / "store"),
        workspace=Workspace(folder / "cache"),
        command="compare",
        record=folder / "record.md",
        say=said.append,
        **only,
    )


@pytest.mark.slow
def test_killed_half_way_and_resumed_it_makes_the_same_page(
    settings_of: SettingsOf, plan_of: Callable[[Settings], Plan], world: Path, tmp_path: Path
) -> None:
    settings = settings_of("killed", arms=ARMS, protocols=("last-10",))
    units = len(plan_of(settings).units)
    done_before_the_kill = _kill_after(7, settings, world, tmp_path / "b")
    said: list[str] = []
    assert _compare(settings, tmp_path / "b", said) == {}
    assert len([line for line in said if re.match(r"\[\d+/\d+\] ", line)]) <= units - done_before_the_kill
    report = settings.report
    killed = (report / HTML).read_text()
    first = json.loads((report / JSON).read_text())
    # A third time there is nothing to do: no look at test, not a byte of difference.
    looks = (tmp_path / "b/record.md").read_text()
    assert looks.count("### Look at test") == 2, "who was killed while looking has looked"
    assert looks.count("cut off before its rows were written") == 1
    _compare(settings, tmp_path / "b", said)
    assert (report / HTML).read_text() == killed
    assert (tmp_path / "b/record.md").read_text() == looks
    assert (report / MARKDOWN).read_text().startswith(f"# {first['recommendation']['headline']}")

    whole = settings_of("whole", arms=ARMS, protocols=("last-10",))
    _all_at_once(whole, plan_of(whole), tmp_path / "a")
    assert _without_times(json.loads((whole.report / JSON).read_text())) | {"recommendation": 0} == _without_times(
        first
    ) | {"recommendation": 0}


def _kill_after(units: int, settings: Settings, world: Path, folder: Path) -> int:
    """SIGKILL to the parent alone, while a worker works; returns how many units were done."""
    command_line = ["--store", str(folder / "store"), "compare", "--dataset", str(world), "--arms", ",".join(ARMS)]
    command_line += ["--seeds", "2", "--minutes-per-run", "1", "--trials", "1", "--hours", "1", "--jobs", "1"]
    command_line += ["--protocols", "last-10"]
    command_line += ["--report", str(settings.report), "--record", str(folder / "record.md")]
    started = subprocess.Popen(
        [sys.executable, "-m", "offline", *command_line],
        cwd=ROOT,
        env=os.environ | {"NAISEKI_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    for line in started.stdout:
        assert "FAILED" not in line
        if line.startswith(f"[{units}/"):
            break
    started.send_signal(signal.SIGKILL)
    started.communicate()
    assert started.returncode == -signal.SIGKILL
    assert not (settings.report / HTML).exists()
    return units


def _all_at_once(settings: Settings, plan: Plan, folder: Path) -> None:
    """In this process, one unit after the other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    store, workspace = ModelStore(folder / "store"), Workspace(folder / "cache")
    waiting, finished = list(plan.units), set[str]()
    while waiting:
        unit = next(unit for unit in waiting if unit.needs <= finished)
        carry_out(unit, settings, store=store, workspace=workspace)
        waiting.remove(unit)
        finished.add(unit.name)
    torch.set_num_threads(threads)
    _compare(settings, folder, [])


def test_a_plan_that_takes_too_long_is_refused_and_says_what_to_lower(settings_of: SettingsOf, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(ValueError, match=r"would take \d+\.\d hours with 1 jobs, above --hours 0.1; lower --minutes"):
        _compare(settings_of(arms=ARMS, hours=0.1), tmp_path, said)
    assert said[0].startswith("tiny, last-10")
    assert list(settings_of().report.glob("*.html")) == []


@pytest.mark.slow
def test_rows_without_a_language_model_under_every_protocol(
    settings_of: SettingsOf, plan_of: Callable[[Settings], Plan], tmp_path: Path
) -> None:
    arms = ("tfidf-knn", "frozen-lm-knn", "random", "sasrec-regression")
    settings = settings_of("every", arms=arms, seeds=1)
    plan = plan_of(settings)
    _all_at_once(settings, plan, tmp_path / "c")
    found = json.loads((settings.report / JSON).read_text())
    protocols = {row["protocol"] for row in found["rows"]}
    assert protocols == {"last-10", "temporal", "cold-items-0", "cold-items-1", "cold-items-2"}
    cold = {row["arm"]: row for row in found["cold"]}
    assert {"popularity", "ease-recency", "tfidf-knn", "frozen-lm-knn", "random", "sasrec-regression"} <= set(cold)
    assert cold["popularity"]["draws"] == 3
    assert cold["tfidf-knn"]["against_nearest"] is None
    assert 0 <= found["new_items"] <= 1
    assert found["recommendation"]["llm"] is None
    assert len(found["claims"]) == 13

    # With one more row asked for, the page is written from what is there, and says what is left.
    looks = (tmp_path / "c/record.md").exists()
    _compare(settings_of("every", arms=(*arms, "contriever"), seeds=1), tmp_path / "c", [], only_page=True)
    written = json.loads((settings.report / JSON).read_text())
    assert written["rows"] == found["rows"]
    assert written["missing"]["contriever, last-10"] == "1 run left to do"
    assert (tmp_path / "c/record.md").exists() == looks


def test_there_is_no_page_of_nothing(settings_of: SettingsOf, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no measurement yet; run it without --page first"):
        _compare(settings_of("nothing", arms=ARMS), tmp_path, [], only_page=True)


def test_the_command_line_prints_the_plan_and_refuses_what_cannot_be(
    settings_of: SettingsOf, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = str(settings_of().report)

    def run(*arguments: str) -> int:
        return main(["--store", str(tmp_path / "store"), "compare", "--report", report, *arguments])

    assert run("--dataset", str(world), "--arms", "e4srec", "--seeds", "1", "--trials", "2", "--plan") == 0
    said = capsys.readouterr().out
    assert said.startswith("tiny, last-10, temporal, cold-items-0")
    assert "units of work are left" in said
    for refused, says in (
        (["--dataset", "movielens"], "neither a run file"),
        (["--dataset", str(world), "--arms", "bert"], "--arms bert: known are"),
        (["--dataset", str(world), "--protocols", "last-11"], "--protocols last-11: known are"),
        (["--dataset", str(world), "--minutes-per-run", "90"], "no unit of work may take 60 minutes"),
        (["--dataset", str(world), "--hours", "0.01"], "above --hours 0.01"),
    ):
        assert run(*refused) == 2
        assert says in capsys.readouterr().err
