"""What each row costs: all rows of a page timed one after the other on one machine, after all other work is done.

Figures of two machines, or of a busy and a quiet one, differ by more than rows do (1.7 times between two processors of
one make).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from model_store.processor import processor_fields
from offline.compare.arm import Arm
from offline.compare.found_versions import FoundVersions
from offline.compare.measuring import costs_of
from offline.compare.plan import Plan
from offline.compare.recipes import fingerprint
from offline.compare.scores import Costs

FILE = "costs.json"


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TimedRow(_Closed):
    """fingerprint: of the arm, of its first seed (`recipes.fingerprint`). version: what was timed."""

    fingerprint: str
    version: str
    costs: Costs


class Machine(_Closed):
    """rows: arm -> what it cost there. timed_at: the last of them, UTC."""

    timed_at: str
    rows: dict[str, TimedRow] = {}


class TimedRows(_Closed):
    """machines: processor -> what was timed on it."""

    machines: dict[str, Machine] = {}

    @classmethod
    def read(cls, report: Path) -> TimedRows:
        file = report / FILE
        return cls.model_validate_json(file.read_text()) if file.exists() else cls()

    def save(self, report: Path) -> None:
        fresh = (report / FILE).with_suffix(".new")
        fresh.write_text(self.model_dump_json(indent=1, exclude_none=True) + "\n")
        fresh.replace(report / FILE)

    def comparable(self, fingerprints: Mapping[str, str]) -> tuple[str, Mapping[str, Costs]]:
        """The processor on which most of these arms were timed as they are now, and what they cost there."""
        found = {
            processor: {arm: row.costs for arm, row in machine.rows.items() if fingerprints.get(arm) == row.fingerprint}
            for processor, machine in self.machines.items()
        }
        return max(found.items(), key=lambda each: (len(each[1]), each[0]), default=("", {}))


def processor() -> str:
    """Name, family and model: a cloud's names alone do not tell its generations apart."""
    said = processor_fields()
    if "model name" not in said:
        return platform.processor() or platform.machine()
    return f"{said['model name']} (family {said.get('cpu family', '?')}, model {said.get('model', '?')})"


def fingerprints_of(plan: Plan, found: FoundVersions) -> dict[str, str]:
    """Of the arms that are bundles and whose trials are made, of their first seeds."""
    return {
        arm.name: fingerprint(arm, plan.settings, seed=0, tuned=found.tuned)
        for arm in plan.arms
        if arm.is_bundle and "warm" in arm.where and arm.family in found.tuned
    }


def time_rows(plan: Plan, found: FoundVersions, *, say: Callable[[str], None]) -> None:
    """Whatever of the page has a version in the store and was not timed on this machine yet; kept beside the page."""
    report, here, identities = plan.settings.report, processor(), fingerprints_of(plan, found)
    timed = TimedRows.read(report)
    rows = dict(timed.machines[here].rows) if here in timed.machines else {}
    found.refresh()
    missing: list[tuple[Arm, str]] = []
    for arm in plan.arms:
        there = arm.name in identities and arm.name in rows and rows[arm.name].fingerprint == identities[arm.name]
        if arm.name in identities and not there:
            version = found.find(arm, plan.settings.headline, 0)
            missing += [(arm, version)] if version is not None else []
    if missing:
        say(f"timing {len(missing)} rows, one after the other")
    validation = found.split(plan.settings.headline).dataset.validation
    for arm, version in missing:
        costs = costs_of(found.store.open(version), validation)
        rows[arm.name] = TimedRow(fingerprint=identities[arm.name], version=version, costs=costs)
        machine = Machine(timed_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M}", rows=rows)
        TimedRows(machines=timed.machines | {here: machine}).save(report)
