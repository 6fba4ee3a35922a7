"""A comparison over the tables of the other tests, small enough for a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.store import ModelStore
from offline.compare import trials
from offline.compare.arms import ARMS
from offline.compare.found_versions import FoundVersions
from offline.compare.plan import Plan
from offline.compare.planner import make_plan
from offline.compare.results import NULL_ASKED, NULL_WORLDS
from offline.compare.settings import Settings, data_of

WriteRun = Callable[..., Path]
SettingsOf = Callable[..., Settings]


@pytest.fixture
def world(write_run: WriteRun) -> Path:
    """A run file whose items are read, and whose base model and epochs go for every arm."""
    return write_run("world", "e4srec", items_from='"run:none"')


@pytest.fixture
def settings_of(world: Path, tmp_path: Path) -> SettingsOf:
    def made(report: str = "report", **changes: object) -> Settings:
        data, headline, shared = data_of(str(world))
        given: dict[str, object] = {"seeds": 2, "minutes": 1.0, "trials": 1, "hours": 1.0, "jobs": 1}
        folder = tmp_path / report
        folder.mkdir(exist_ok=True)
        # Measured by its own test; here it would take longer than all the rest.
        (folder / NULL_WORLDS).write_text(json.dumps(NULL_ASKED | {"claimed": 4}))
        return Settings(data, headline, shared, report=folder, **(given | changes))  # type: ignore[arg-type]

    return made


@pytest.fixture
def found_of(store: ModelStore) -> Callable[[Settings], FoundVersions]:
    def made(settings: Settings) -> FoundVersions:
        families = {arm.family for arm in ARMS if arm.is_bundle}
        return FoundVersions(settings, store, trials.choices(families, settings))

    return made


@pytest.fixture
def plan_of(found_of: Callable[[Settings], FoundVersions]) -> Callable[[Settings], Plan]:
    return lambda settings: make_plan(settings, found_of(settings))
