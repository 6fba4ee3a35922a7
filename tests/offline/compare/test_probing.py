from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from offline.claims.probe import SEEDS
from offline.claims.training_ease import CONTRASTS, RATES
from offline.compare import probing
from offline.compare.found_versions import FoundVersions
from offline.compare.plan import Plan
from offline.compare.settings import Settings
from offline.workspace import Workspace

SettingsOf = Callable[..., Settings]


def test_a_run_is_made_once_and_kept_beside_the_page(
    settings_of: SettingsOf,
    found_of: Callable[[Settings], FoundVersions],
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probing, "EPOCHS", 2)
    found = found_of(settings_of(arms=("contriever",)))
    probing.probe("sasrec", None, 0, found=found, workspace=workspace)
    probing.probe("contriever", 1e-3, 0, found=found, workspace=workspace)
    made = [(run.arm, run.learning_rate, run.seed) for run in probing.read_probe(found)]
    assert made == [("sasrec", None, 0), ("contriever", 1e-3, 0)]

    def again(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(probing, "run_probe", again)
    probing.probe("contriever", 1e-3, 0, found=found, workspace=workspace)
    other = found_of(settings_of(arms=("contriever",)))
    other.tuned = {**other.tuned, "contriever": {"dropout": 0.4}}
    assert [run.arm for run in probing.read_probe(other)] == ["sasrec"], "a run of another recipe is none of its"


def test_the_plan_has_every_rate_and_seed_after_the_baseline(
    settings_of: SettingsOf, plan_of: Callable[[Settings], Plan]
) -> None:
    def probes(**changes: object) -> dict[str, frozenset[str]]:
        plan = plan_of(settings_of(arms=("contriever",), protocols=("last-10",), **changes))
        return {unit.name: unit.needs for unit in plan.units if unit.kind == "probe"}

    units = probes()
    assert len(units) == len(SEEDS) * (1 + len(RATES))
    assert units["probe contriever last-10 seed 1 rate 0.0003"] == {"probe sasrec last-10 seed 1"}
    assert probes(without=("probe",)) == {}


def test_every_arm_that_a_claim_is_about_is_probed(
    settings_of: SettingsOf, plan_of: Callable[[Settings], Plan]
) -> None:
    plan = plan_of(settings_of(protocols=("last-10",)))
    asked = {arm for contrast in CONTRASTS.values() for arm in contrast}
    assert {unit.arm for unit in plan.units if unit.kind == "probe"} == {"sasrec", *asked}


def test_files_are_told_apart(settings_of: SettingsOf, found_of: Callable[[Settings], FoundVersions]) -> None:
    found = found_of(settings_of())
    files: list[Path] = [probing.probe_file(*run, found) for run in probing.probe_runs()]
    assert len(set(files)) == len(files) == len(SEEDS) * (1 + 4 * len(RATES))
