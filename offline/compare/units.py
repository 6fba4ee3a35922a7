"""What one unit of work does, in whatever process: all that it needs is in the store, the workspace and the report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model_store.bundle import Bundle
from model_store.manifest import Provenance
from model_store.store import ModelStore
from offline import pipeline
from offline.claims.twin_events import twin_events, twin_wins
from offline.compare import trials
from offline.compare.arm import Arm
from offline.compare.arms import BY_NAME
from offline.compare.found_versions import FoundVersions
from offline.compare.measuring import neighbours_of
from offline.compare.ordering import measure_order
from offline.compare.parts import joined, part_file, rank_part
from offline.compare.plan import Unit
from offline.compare.probing import probe
from offline.compare.rankings import of_bundle, of_parts, of_scorer
from offline.compare.recipes import fingerprint
from offline.compare.scores import ScoreMeta, SeedScores, read_meta, score_file
from offline.compare.settings import Settings
from offline.evaluation.beyond_accuracy import list_figures
from offline.run_config import RunRefused
from offline.tuning import run_trial
from offline.workspace import Workspace

TWINS = ("e4srec", "contriever")  # who is asked about items of nearly the same title


def carry_out(unit: Unit, settings: Settings, *, store: ModelStore, workspace: Workspace) -> None:
    """Does it, or finds that it has been done meanwhile (a trial may have chosen what a version has already)."""
    arm = BY_NAME[unit.arm]
    families = {found.family for found in BY_NAME.values() if found.is_bundle}
    found = FoundVersions(settings, store, trials.choices(families, settings))
    found.refresh()
    if unit.kind == "tune":
        _tune(unit, arm, found)
    elif unit.kind == "train":
        if found.find(arm, unit.protocol, unit.seed) is None:
            _train(unit, arm, found, workspace)
    elif unit.kind == "rank":
        assert unit.part is not None
        file = _part_files(unit, arm, found)[unit.part]
        rank_part(_open(unit, arm, found), found.split(unit.protocol), file, part=unit.part, parts=arm.parts)
    elif unit.kind == "order":
        measure_order(arm, unit.seed, found)
    elif unit.kind == "probe":
        probe(unit.arm, unit.rate, unit.seed, found=found, workspace=workspace)
    else:
        _score(unit, arm, found, workspace)


def _tune(unit: Unit, arm: Arm, found: FoundVersions) -> None:
    parents = found.parents(arm, unit.protocol, unit.seed)
    assert parents is not None, "what a trial needs comes first"
    config = trials.trial_config(arm.family, found.settings, parents)
    changes = trials.drawn(arm.family, found.settings)[unit.trial]
    trials.keep(run_trial(config, unit.trial, changes, found.store.root), arm.family, found.settings)


def _train(unit: Unit, arm: Arm, found: FoundVersions, workspace: Workspace) -> None:
    config = found.config(arm, unit.protocol, unit.seed)
    assert config is not None, "parents come first"
    pipeline.run(config, store=found.store, workspace=workspace)


def _score(unit: Unit, arm: Arm, found: FoundVersions, workspace: Workspace) -> None:
    settings, data = found.settings, found.split(unit.protocol)
    split_fingerprint = data.dataset.split_fingerprint
    identity = fingerprint(arm, settings, seed=unit.seed, tuned=found.tuned)
    folder = settings.report / "scores"
    there = read_meta(score_file(folder, arm.name, unit.protocol, seed=unit.seed))
    if there is not None and there.is_of(identity, split_fingerprint=split_fingerprint, minutes=settings.minutes):
        return
    started = time.perf_counter()
    details: dict[str, Any] = {}
    longest, wins_P = None, None
    if arm.is_bundle:
        bundle = _open(unit, arm, found)
        longest = _longest_training(bundle.manifest.provenance, found.store)
        parts = _part_files(unit, arm, found)
        ranked = of_bundle(bundle, data) if arm.parts == 1 else of_parts(joined(parts, data))
        details = _details(bundle, workspace, with_neighbours=unit.seed == 0)
        if arm.name in TWINS and unit.protocol == settings.headline:
            wins_P = twin_wins(bundle, data.test, twin_events(data.dataset, data.test))
    else:
        ranked = of_scorer(arm.name, data, shared=settings.shared)
    scores = ranked.scores
    meta = ScoreMeta(
        arm=arm.name,
        family=arm.family,
        variant=arm.variant,
        protocol=unit.protocol,
        seed=unit.seed,
        fingerprint=identity,
        dataset=data.dataset.name,
        dataset_fingerprint=data.dataset.fingerprint,
        split_fingerprint=split_fingerprint,
        seen_removed=scores.seen_removed,
        depth=scores.depth,
        events=len(data.test),
        users=len(set(data.test.users.tolist())),
        measured_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        score_seconds=round(time.perf_counter() - started, 1),
        minutes=None if longest is None else settings.minutes,
        longest_seconds=longest,
        lists=list_figures(scores, data.test, dataset=data.dataset),
        **details,
    )
    SeedScores(meta, scores.ranks, kept_E=ranked.kept_E, among_E=ranked.among_E, wins_P=wins_P).save(folder)
    for file in _part_files(unit, arm, found) if arm.parts > 1 else ():
        file.unlink(missing_ok=True)


def _part_files(unit: Unit, arm: Arm, found: FoundVersions) -> list[Path]:
    identity = fingerprint(arm, found.settings, seed=unit.seed, tuned=found.tuned)
    split_fingerprint = found.split(unit.protocol).dataset.split_fingerprint[:6]
    stem = f"{arm.name}.{unit.protocol}.{unit.seed}.{identity}-{split_fingerprint}"
    return [part_file(found.settings.report, stem, part, arm.parts) for part in range(arm.parts)]


def _open(unit: Unit, arm: Arm, found: FoundVersions) -> Bundle:
    version = found.find(arm, unit.protocol, unit.seed if arm.drawn else 0)
    if version is None:
        raise RunRefused(f"{arm.name}: no version was made for {unit.protocol}, seed {unit.seed}")
    return found.store.open(version)


def _longest_training(made: Provenance, store: ModelStore) -> float | None:
    """Seconds, of the trainings with a budget that a version rests on, its own among them; None where there is none."""
    fit = made.recipe.get("fit")
    bounded = isinstance(fit, Mapping) and fit.get("minutes") is not None
    behind = [_longest_training(store.manifest(version).provenance, store) for version in made.parents.values()]
    own = [made.train_seconds] if bounded else []
    return max([*own, *(seconds for seconds in behind if seconds is not None)], default=None)


def _details(bundle: Bundle, workspace: Workspace, *, with_neighbours: bool) -> dict[str, Any]:
    """What the score file says of a bundle beside its ranks."""
    log = workspace.training_log(bundle.version)
    curve = log.pop("curve", [])
    return {
        "version": bundle.version,
        "train_seconds": bundle.manifest.provenance.train_seconds,
        "parents": bundle.manifest.provenance.parents,
        "log": log,
        "curve": curve if isinstance(curve, list) else [],
        "neighbours": neighbours_of(bundle) if with_neighbours else {},
    }
