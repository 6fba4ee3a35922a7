from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from offline.__main__ import COMMANDS
from offline.command_line import parser
from offline.compare.arms import BY_NAME
from offline.compare.estimates import Estimates
from offline.compare.plan import Plan, Unit
from offline.compare.plan_text import plan_text
from offline.compare.settings import Settings
from offline.compare.starting_values import TYPICAL_EVENTS
from offline.run_config import RunRefused

SettingsOf = Callable[..., Settings]
PlanOf = Callable[[Settings], Plan]


def _units(plan: Plan) -> dict[str, Unit]:
    return {unit.name: unit for unit in plan.units}


def test_what_a_unit_needs_comes_first(settings_of: SettingsOf, plan_of: PlanOf) -> None:
    units = _units(plan_of(settings_of(arms=("e4srec", "sasrec+sasrec"))))
    assert units["score popularity last-10 seed 0"].needs == frozenset()
    assert units["score e4srec last-10 seed 1"].needs == {"train e4srec last-10 seed 1"}
    assert units["train e4srec last-10 seed 1"].needs == {"train sasrec last-10 seed 1"}
    assert units["train sasrec+sasrec last-10 seed 1"].needs == {f"train sasrec last-10 seed {s}" for s in (0, 1)}
    assert not any("random" in name or "contriever" in name for name in units)


def test_trials_come_before_the_family_s_runs(settings_of: SettingsOf, plan_of: PlanOf) -> None:
    units = _units(plan_of(settings_of(arms=("e4srec",), trials=3)))
    trials = {f"tune e4srec trial {number}" for number in range(3)}
    assert units["train e4srec last-10 seed 0"].needs == {*trials, "train sasrec last-10 seed 0"}
    assert units["tune e4srec trial 1"].needs == {"train sasrec last-10 seed 0"}
    assert units["train sasrec last-10 seed 0"].needs == {f"tune sasrec trial {number}" for number in range(3)}
    assert units["tune e4srec trial 1"].minutes < 3


def test_what_cannot_be_had_is_listed_with_the_reason(settings_of: SettingsOf, plan_of: PlanOf) -> None:
    plan = plan_of(settings_of(seeds=1, arms=("sasrec+sasrec", "e4srec"), hours=20.0))
    assert plan.unavailable["sasrec+sasrec"] == "needs two seeds: raise --seeds"
    assert "not available: sasrec+sasrec: needs two seeds" in plan_text(plan)


def _plan(settings: Settings, *units: Unit) -> Plan:
    return Plan(settings, (), ("last-10",), units, 0, {})


def _unit(arm: str, minutes: float, *needs: str) -> Unit:
    return Unit("train", arm, "last-10", 0, minutes, frozenset(f"train {need} last-10 seed 0" for need in needs))


def test_the_total_is_that_of_the_longest_chain_first(settings_of: SettingsOf) -> None:
    settings = settings_of(jobs=2)
    units = [_unit("a", 30), _unit("b", 30, "a"), *(_unit(f"c{n}", 20) for n in range(3))]
    plan = _plan(settings, *units)
    assert plan.chains["train a last-10 seed 0"] == 60
    assert (plan.minutes, plan.hours) == (120, 1)
    assert _plan(replace(settings, jobs=1), *units).hours == 2


def test_too_long_is_refused_with_the_figure(settings_of: SettingsOf) -> None:
    with pytest.raises(RunRefused, match=r"2\.0 hours with 1 jobs, above --hours 1; lower --minutes-per-run \(1\)"):
        _plan(settings_of(), *(_unit(f"c{n}", 40) for n in range(3))).check()
    with pytest.raises(RunRefused, match="train a last-10 seed 0 would take 61 minutes"):
        _plan(settings_of(hours=5.0), _unit("a", 61)).check()
    _plan(settings_of(), _unit("a", 60)).check()


def test_the_whole_page_of_ml_100k_fits_in_its_own_hours(
    settings_of: SettingsOf, plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every default of the command and nothing measured yet: it must not refuse what it proposes itself."""
    of = Estimates.of
    monkeypatch.setattr(Estimates, "of", lambda settings, *, events: of(settings, events=TYPICAL_EVENTS))
    defaults = parser(COMMANDS).parse_args(["compare", "--dataset", "ml-100k", "--report", "-"])
    asked = {"seeds": defaults.seeds, "minutes": defaults.minutes_per_run, "trials": defaults.trials}
    plan = plan_of(replace(settings_of(**asked, hours=defaults.hours, jobs=2), shared={}))
    assert not plan.unavailable
    assert {arm.name for arm in plan.arms} == set(BY_NAME)
    assert len(plan.protocols) == 5
    plan.check()
