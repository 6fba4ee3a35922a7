"""Trials of a comparison: as many for every family, chosen on validation, kept one file each beside the page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from offline.compare.arm import Arm
from offline.compare.arms import BY_NAME
from offline.compare.recipes import fingerprint, run_config
from offline.compare.settings import Settings
from offline.compare.starting_values import TRIALS
from offline.datasets.config import BUILT_IN
from offline.run_config import RunConfig
from offline.tuning import Trial, draw

TRIAL_MINUTES = 2.0


def main_arm(family: str) -> Arm:
    """The arm that a family's trials are made with."""
    return BY_NAME[family]


def trial_config(family: str, settings: Settings, parents: Mapping[str, str]) -> RunConfig:
    return run_config(
        main_arm(family),
        settings,
        protocol=settings.headline,
        seed=0,
        parents=parents,
        minutes=min(TRIAL_MINUTES, settings.minutes),
    )


def drawn(family: str, settings: Settings) -> list[dict[str, Any]]:
    """The changes of each trial, the first is none; empty where there is nothing to choose from."""
    if settings.trials < 2 or family not in TRIALS:
        return []
    named = [value for values in main_arm(family).parents.values() for value in _several(values)]
    config = trial_config(family, settings, {name: name for name in named})
    return draw(config, settings.trials) if config.tune else []


def _several(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _file(family: str, settings: Settings, number: int) -> Path:
    return settings.report / "trials" / f"{family}.{number}.json"


def _identity(family: str, settings: Settings, changes: dict[str, Any]) -> str:
    """Of the trial and all that it starts from: parents as their own trials have chosen them."""
    parents = {BY_NAME[name].family for name in main_arm(family).parent_arms()}
    start = fingerprint(main_arm(family), settings, seed=0, tuned=choices(parents, settings))
    minutes = min(TRIAL_MINUTES, settings.minutes)
    parts: list[object] = [start, changes, minutes, settings.headline]
    if settings.data != BUILT_IN.get(settings.data.name):
        parts.append(settings.data.model_dump(mode="json"))  # what is best on other data says nothing here
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def keep(trial: Trial, family: str, settings: Settings) -> None:
    file = _file(family, settings, trial.number)
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(trial) | {"of": _identity(family, settings, trial.changes)}, indent=1) + "\n")
    fresh.replace(file)


def done(family: str, settings: Settings) -> dict[int, Trial]:
    """Trials that have been made as they would be made now, by number."""
    found = {}
    for number, changes in enumerate(drawn(family, settings)):
        file = _file(family, settings, number)
        if not file.exists():
            continue
        content = json.loads(file.read_text())
        if content.pop("of") == _identity(family, settings, changes):
            found[number] = Trial(**content)
    return found


def choices(families: set[str], settings: Settings) -> dict[str, dict[str, Any]]:
    """Family -> what its best trial changed (the first among equals); a family whose trials are not all made is not in
    it."""
    chosen: dict[str, dict[str, Any]] = {}
    for family in sorted(families):
        wanted, made = drawn(family, settings), done(family, settings)
        if len(made) == len(wanted):
            best = max(made.values(), key=lambda trial: (trial.ndcg10, -trial.number), default=None)
            chosen[family] = {} if best is None else best.changes
    return chosen
