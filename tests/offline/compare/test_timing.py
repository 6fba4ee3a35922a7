from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.store import ModelStore
from offline.compare import timing
from offline.compare.found_versions import FoundVersions
from offline.compare.plan import Plan
from offline.compare.scores import Costs
from offline.compare.settings import Settings
from offline.compare.timing import Machine, TimedRow, TimedRows, time_rows
from offline.compare.units import carry_out
from offline.workspace import Workspace

COSTS = Costs.model_validate({name: 1 for name, field in Costs.model_fields.items() if field.is_required()})


def _machine(**fingerprints: str) -> Machine:
    rows = {
        arm: TimedRow(fingerprint=fingerprint, version="v", costs=COSTS) for arm, fingerprint in fingerprints.items()
    }
    return Machine(timed_at="2026-01-01 00:00", rows=rows)


def test_rows_are_compared_on_the_machine_that_timed_most_of_them_as_they_are_now() -> None:
    timed = TimedRows(machines={"old": _machine(sasrec="a", ease="b"), "new": _machine(sasrec="a", ease="other")})
    processor, costs = timed.comparable({"sasrec": "a", "ease": "b", "e4srec": "c"})
    assert (processor, set(costs)) == ("old", {"sasrec", "ease"})
    assert TimedRows().comparable({"sasrec": "a"}) == ("", {})


def test_a_machine_times_what_it_has_not_and_leaves_others_figures_alone(
    settings_of: Callable[..., Settings],
    plan_of: Callable[[Settings], Plan],
    found_of: Callable[[Settings], FoundVersions],
    store: ModelStore,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of(arms=("ease",), seeds=1, protocols=("last-10",))
    plan = plan_of(settings)
    for unit in sorted(plan.units, key=lambda unit: len(unit.needs)):
        if unit.arm in ("ease", "ease-recency"):
            carry_out(unit, settings, store=store, workspace=workspace)
    said: list[str] = []

    def timed_on(name: str) -> TimedRows:
        monkeypatch.setattr(timing, "processor", lambda: name)
        time_rows(plan, found_of(settings), say=said.append)
        return TimedRows.read(settings.report)

    first = timed_on("one")
    assert set(first.machines["one"].rows) == {"ease", "ease-recency"}, "SASRec has no version yet"
    assert first.machines["one"].rows["ease"].costs.request_cpu_ms > 0
    assert timed_on("one") == first
    assert said == ["timing 2 rows, one after the other"]
    both = timed_on("two")
    assert both.machines["one"] == first.machines["one"]
    assert set(both.machines["two"].rows) == {"ease", "ease-recency"}
    assert not list(Path(settings.report).glob("*.new"))
