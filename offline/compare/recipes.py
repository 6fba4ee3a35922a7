"""An arm, a protocol and a seed as the run that trains it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from offline import families
from offline.compare.arm import Arm
from offline.compare.arms import BY_NAME
from offline.compare.settings import Settings
from offline.compare.starting_values import TRIALS, start_of, text_reading
from offline.recipe import Recipe
from offline.run_config import RunConfig, RunRefused
from offline.splits.protocols import Protocol

Changes = Mapping[str, Any]
TEXT_SCORERS = ("tfidf-knn", "frozen-lm-knn")


def run_name(arm: Arm, dataset: str) -> str:
    return f"compare-{dataset}-{arm.name}"


def run_config(
    arm: Arm,
    settings: Settings,
    *,
    protocol: Protocol,
    seed: int,
    parents: Mapping[str, str],
    tuned: Changes | None = None,
    minutes: float | None = None,
) -> RunConfig:
    """parents: parent as the arm names it ("sasrec", "sasrec@1") -> the version to start from. tuned: dotted recipe key
    -> what the family's trials chose. minutes: of training, where not the comparison's own.

    RunRefused with the reasons when the family does not exist or does not take the recipe.
    """
    recipe = _section(arm, settings, minutes=minutes or settings.minutes)
    recipe |= {key: _references(value, parents) for key, value in arm.parents.items()}
    config = RunConfig.of(
        name=run_name(arm, settings.dataset),
        family=arm.family,
        protocol=protocol,
        data=settings.data,
        recipe=recipe | {"seed": seed},
        tune=_trials(arm),
    )
    changes = {key: value for key, value in (tuned or {}).items() if key not in arm.changes}
    return config.varied(changes) if changes else config


def _references(value: str | tuple[str, ...], parents: Mapping[str, str]) -> str | list[str]:
    return parents[value] if isinstance(value, str) else [parents[name] for name in value]


def _section(arm: Arm, settings: Settings, *, minutes: float) -> dict[str, Any]:
    """Later ones win: where the family starts, what goes for all arms, what makes this arm."""
    fields = families.recipe_class(arm.family).model_fields if arm.family in families.names() else {}
    section: dict[str, Any] = {}
    if arm.bare:
        return dict(arm.changes)
    for changes in (_kept(start_of(arm.family, settings.dataset), arm), _kept(settings.shared, arm), arm.changes):
        for key, value in changes.items():
            if fields and key not in fields and changes is not arm.changes:
                continue
            old = section.get(key)
            section[key] = old | value if isinstance(old, dict) and isinstance(value, dict) else value
    if "fit" in fields and "fit" not in arm.dropped:
        section["fit"] = section.get("fit", {}) | {"minutes": minutes}
    return section


def _kept(section: Changes, arm: Arm) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in arm.dropped}


def _trials(arm: Arm) -> dict[str, list[Any]]:
    fields = families.recipe_class(arm.family).model_fields if arm.family in families.names() else {}
    return {key: v for key, v in TRIALS.get(arm.family, {}).items() if key.partition(".")[0] in fields}


def refusal(arm: Arm, settings: Settings) -> str | None:
    """Why this arm cannot be trained here, or None."""
    if not arm.is_bundle:
        return None
    names = {value for values in arm.parents.values() for value in ([values] if isinstance(values, str) else values)}
    try:
        run_config(arm, settings, protocol=settings.headline, seed=0, parents={n: f"version-of-{n}" for n in names})
    except (RunRefused, ValueError) as refused:
        return " ".join(str(refused).split()).removeprefix(f"{run_name(arm, settings.dataset)}: ")
    return None


def fingerprint(arm: Arm, settings: Settings, *, seed: int, tuned: Mapping[str, Changes]) -> str:
    """12 hex digits over what the arm is: family, recipe where it differs from the family's defaults, parents by arm.

    Neither the budget in minutes is in it (a training that ended by itself is the same under a longer one) nor a
    default: an option that a family gains later changes no arm of before. tuned: family -> what its trials chose.
    """
    if not arm.is_bundle:
        return hashlib.sha256(_scorer_identity(arm.name, settings).encode()).hexdigest()[:12]
    names = {value for values in arm.parents.values() for value in ([values] if isinstance(values, str) else values)}
    config = run_config(
        arm,
        settings,
        protocol=settings.headline,
        seed=seed,
        parents={name: name for name in names},
        tuned=tuned.get(arm.family),
    )
    recipe = config.recipe.model_dump(mode="json", exclude_defaults=True)
    recipe.pop("seed", None)
    recipe.get("fit", {}).pop("minutes", None)
    parents = [fingerprint(BY_NAME[name], settings, seed=seed, tuned=tuned) for name in arm.parent_arms()]
    identity = [arm.family, recipe, seed if arm.drawn else 0, parents]
    if settings.seeds < arm.seeds and any("@" in name for name in names):
        identity.append(settings.seeds)  # "the next seed" of the last one is the first: among fewer, another pair
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _scorer_identity(name: str, settings: Settings) -> str:
    """Of a row that is no bundle: its name, and where it reads texts, how."""
    if name not in TEXT_SCORERS:
        return name
    template, lm = text_reading(settings.shared)
    return json.dumps([name, template, lm] if name == "frozen-lm-knn" else [name, template], sort_keys=True)


def same_recipe(recorded: Mapping[str, Any], recipe: Recipe, *, without: tuple[str, ...] = ()) -> bool:
    """Whether a version that says `recorded` was trained as `recipe` says, but for the keys `without` and the budget.

    A key that the record lacks is an option of later: it was at its default.
    """
    return _same_section(recorded, recipe, without=without)


def _same_section(recorded: Mapping[str, Any], section: Any, *, without: tuple[str, ...]) -> bool:
    ours = section.model_dump(mode="json")
    if any(key not in ours for key in recorded):
        return False
    for key, field in type(section).model_fields.items():
        if key in without or (key == "minutes" and "patience" in ours):
            continue
        value = getattr(section, key)
        if key not in recorded:
            if value != field.get_default(call_default_factory=True):
                return False
        elif hasattr(value, "model_fields_set") and isinstance(recorded[key], Mapping):
            if not _same_section(recorded[key], value, without=()):
                return False
        elif recorded[key] != ours[key]:
            return False
    return True
