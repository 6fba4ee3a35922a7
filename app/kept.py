"""Versions that an operator keeps in memory under no label: they answer requests that name them."""

from __future__ import annotations

from dataclasses import replace

from app.errors import Problem
from app.targets import ONE_ONLY
from app.versions import Versions
from model_store.audit import LABELS


def keep(versions: Versions, version: str, *, most: int) -> None:
    """Asks for `version` to be loaded, or tried again where it failed. Problem `not-possible` past `most` of them."""
    if versions.states.of(version).state == "FAILED":
        versions.states.enter(version, "STAGED")
    if version not in versions.targets().needed():
        if versions.keeping.one:
            raise Problem("not-possible", ONE_ONLY)
        if len(versions.asked) >= most:
            kept = ", ".join(versions.asked) or "none"
            raise Problem(
                "not-possible", f"{most} versions may be kept (NAISEKI_MODELS_KEPT), and {kept} are: unload one first"
            )
        versions.asked.append(version)
    versions.advance()


def let_go(versions: Versions, version: str) -> None:
    """Lets a version go once its requests are done. Problem `not-possible` while a label needs it."""
    targets = versions.targets()
    without = replace(targets, asked=[one for one in targets.asked if one != version])
    served = versions.serving.find(version) if versions.serving else None
    answers = served.label if served is not None and served.label != "loaded" else None
    if answers is not None or version in without.needed():
        wanting = next((label for label in LABELS if targets.labels.version_of(label) == version), answers)
        raise Problem("not-possible", f"{version} is {wanting or 'the last good one'}: move or remove that label first")
    if version in versions.asked:
        versions.asked.remove(version)
    versions.advance()
