"""From a run file to a published version, on one screen."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as package_version

from model_store.bundle import Bundle
from model_store.manifest import Provenance
from model_store.store import ModelStore
from offline import datasets
from offline.data_needs import check_data
from offline.evaluation import full_ranking as evaluation
from offline.finishing.final_fit import final_fit, final_parents
from offline.finishing.finish import finished
from offline.recipe import Recipe, TrainedModel
from offline.run_config import RunConfig, RunRefused
from offline.splits.protocols import split
from offline.splits.sequences import Split
from offline.training.processes import as_main_says, measuring_device, this_process
from offline.workspace import Workspace

logger = logging.getLogger(__name__)
PACKAGES = ("torch", "transformers", "peft", "numpy", "polars")


def run(config: RunConfig, *, store: ModelStore, workspace: Workspace) -> str:
    """Train, stage, measure on validation, publish; returns the version. A killed run resumes where it was.

    A run that has been published with the same data, recipe and parents is not trained again. Under
    `accelerate launch` all processes train; the main one stages and publishes while the others wait.
    With `final_fit` the version returned is the one that ships, fitted to all events after its twin was measured.
    """
    interactions = datasets.load(config.data)
    data = split(interactions, config.protocol)
    parents = parent_versions(config.recipe, store=store, split_fingerprint=data.dataset.split_fingerprint)
    if config.final_fit:
        # What could not be refitted afterwards is refused before its twin has trained.
        final_parents(config.recipe, parents, store=store)
    made = _evaluated(config, data, names=parents, store=store, workspace=workspace)
    if not config.final_fit:
        return made.version
    return final_fit(
        config.recipe,
        interactions,
        data.dataset,
        twin=store.manifest(made.version),
        log=made.log,
        store=store,
        workspace=workspace,
    )


@dataclass(frozen=True, slots=True)
class _Made:
    version: str
    log: dict[str, object]


def _evaluated(
    config: RunConfig, data: Split, *, names: dict[str, str], store: ModelStore, workspace: Workspace
) -> _Made:
    """names: role -> version of each parent."""
    fingerprint = config.fingerprint(split_fingerprint=data.dataset.split_fingerprint, parents=names)
    checkpoints = workspace.run_folder(config.name, fingerprint)
    done = workspace.published(checkpoints)
    # A family that trains in no time must not publish before every process has looked.
    this_process().wait_for_everyone()
    if done is not None and done in store.list_names():
        logger.info("%s: already published as %s", config.name, done)
        return _Made(done, workspace.log_of(checkpoints))
    check_data(config.recipe, data.dataset)
    parents = {role: store.open(version) for role, version in names.items()}
    started = time.perf_counter()
    trained = finished(config.recipe.train(data.dataset, checkpoints, parents), config.recipe, data.dataset)
    # A resumed run has trained longer than this session.
    logged = trained.log.get("seconds")
    seconds = logged if isinstance(logged, float) else time.perf_counter() - started
    version = ""
    if this_process().is_main_process:
        provenance = _provenance(config, data, parents=names, seconds=seconds)
        version = _publish(trained, data, store=store, provenance=provenance)
        workspace.mark_published(checkpoints, version, log=trained.log)
    version = as_main_says(version)
    return _Made(version, workspace.log_of(checkpoints))


def _provenance(config: RunConfig, data: Split, *, parents: dict[str, str], seconds: float) -> Provenance:
    return Provenance(
        run=config.name,
        recipe=config.recipe.model_dump(mode="json"),
        # Only what the file says: an optional column is an error where it is named and missing. The kind, always:
        # built-in data are named by it alone.
        data={"kind": config.data.kind} | config.data.model_dump(mode="json", exclude_unset=True),
        seed=config.recipe.seed,
        dataset=data.dataset.name,
        dataset_fingerprint=data.dataset.fingerprint,
        split_fingerprint=data.dataset.split_fingerprint,
        protocol=config.protocol,
        packages={name: package_version(name) for name in PACKAGES},
        train_seconds=round(seconds, 1),
        parents=parents,
    )


def _publish(trained: TrainedModel, data: Split, *, store: ModelStore, provenance: Provenance) -> str:
    """What is measured is the file that is served, loaded from where it is staged."""
    staged = store.stage(trained.parts, provenance=provenance)
    try:
        bundle = Bundle.load(staged.folder, measuring_device())
        scores = evaluation.evaluate(bundle, data.dataset.validation, seen_removed=data.dataset.exclude_seen)
        metrics = evaluation.summarise(scores, dataset=data.dataset, subset="validation")
        return store.publish(staged, metrics=metrics)
    except BaseException:
        staged.discard()
        raise


def parent_versions(recipe: Recipe, *, store: ModelStore, split_fingerprint: str) -> dict[str, str]:
    """Role -> version that a recipe names; RunRefused when one is missing or was fitted to another split.

    A reference is a version, or `run:NAME`: the newest version that this run made on the same split and, where there
    is one, with the same seed.
    """
    versions = {}
    for role, reference in recipe.parent_references().items():
        version = find_version(reference, store=store, split_fingerprint=split_fingerprint, seed=recipe.seed)
        found = store.manifest(version).provenance.split_fingerprint
        if found != split_fingerprint:
            raise RunRefused(f"recipe.{role}: {version} was fitted to another split ({found}, not {split_fingerprint})")
        versions[role] = version
    return versions


def open_parents(recipe: Recipe, *, store: ModelStore, split_fingerprint: str) -> Mapping[str, Bundle]:
    """Those versions, checked and opened."""
    versions = parent_versions(recipe, store=store, split_fingerprint=split_fingerprint)
    return {role: store.open(version) for role, version in versions.items()}


def find_version(reference: str, *, store: ModelStore, split_fingerprint: str, seed: int) -> str:
    """`run:NAME`: the newest version of that run on this split, of this seed where there is one. `run:NAME@2`: of its
    seed 2. `run:NAME@+1`: of the seed that comes after this one among its seeds, the first after the last.
    """
    if not reference.startswith("run:"):
        return reference
    name, _, asked = reference.removeprefix("run:").partition("@")
    newest: dict[int, str] = {}
    for manifest in store.list():
        provenance = manifest.provenance
        if provenance.run == name and provenance.split_fingerprint == split_fingerprint:
            newest[provenance.seed] = manifest.version
    if not newest:
        raise RunRefused(f"{reference}: that run has published nothing on this split; run it first")
    if not asked:
        return newest.get(seed) or max(newest.values())
    wanted = _next_seed(seed, sorted(newest), reference) if asked == "+1" else _whole(asked, reference)
    if wanted not in newest:
        raise RunRefused(f"{reference}: that run has no version of seed {wanted} on this split; run it first")
    return newest[wanted]


def _next_seed(seed: int, seeds: list[int], reference: str) -> int:
    others = [other for other in seeds if other != seed]
    if not others:
        raise RunRefused(f"{reference}: that run has no other seed than {seed} on this split; run it with more seeds")
    return min((other for other in others if other > seed), default=others[0])


def _whole(text: str, reference: str) -> int:
    if not text.isdecimal():
        raise RunRefused(f"{reference}: what follows @ is a seed or +1, not {text!r}")
    return int(text)
