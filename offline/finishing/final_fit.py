"""The version that ships, fitted to every event: nobody's last choices are left out of it.

Everything that was chosen (epochs, weights, beta, ridge, offsets, strength) is what its evaluated twin chose; nothing
is chosen again, for the events that a choice could be made on are trained on now. Its figures are the twin's, and it is
never a row of a comparison: it has seen the test events.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from model_store.bundle import Bundle
from model_store.manifest import Manifest
from model_store.store import ModelStore
from offline.datasets.interactions import Interactions
from offline.finishing.finish import finished
from offline.recipe import Recipe
from offline.run_config import RunRefused
from offline.splits.sequences import SequenceDataset
from offline.splits.training_split import dataset_of
from offline.training.processes import as_main_says, measuring_device, this_process
from offline.workspace import Workspace

logger = logging.getLogger(__name__)


def all_events(interactions: Interactions, evaluated: SequenceDataset) -> SequenceDataset:
    """Every event is training, and no item is hidden. Another split fingerprint: nothing else may be made of it or set
    beside it by mistake. The validation queries stay, for scales; they can no longer judge anything.
    """
    everything_E = np.ones(len(interactions.users), dtype=bool)
    dataset = dataset_of(interactions, evaluated.protocol, train_E=everything_E, validation=evaluated.validation)
    text = f"{interactions.fingerprint} {evaluated.protocol} all events"
    return replace(dataset, split_fingerprint=hashlib.sha256(text.encode()).hexdigest())


def final_fit(
    recipe: Recipe,
    interactions: Interactions,
    evaluated: SequenceDataset,
    *,
    twin: Manifest,
    log: Mapping[str, object],
    store: ModelStore,
    workspace: Workspace,
) -> str:
    """Refits as `twin` was found best, publishes with the twin's figures, and returns the version.

    log: the twin's training log. A final fit that has been published for this twin is not made again. RunRefused where
    the log lacks a choice, or a parent its own final fit.
    """
    dataset = all_events(interactions, evaluated)
    checkpoints = workspace.run_folder(f"{twin.provenance.run}-final", twin.version)
    done = workspace.published(checkpoints)
    this_process().wait_for_everyone()
    if done is not None and done in store.list_names():
        logger.info("%s: its final fit is already published as %s", twin.version, done)
        return done
    check_choices(recipe, log, twin=twin)
    parents = final_parents(recipe, twin.provenance.parents, store=store)
    for role, version in parents.items():
        if version == twin.provenance.parents[role]:
            logger.warning("recipe.%s: %s has no final fit; training starts from it as it is", role, version)
    opened = {role: store.open(version) for role, version in parents.items()}
    refitted = recipe.refitted(log)
    trained = finished(refitted.train(dataset, checkpoints, opened), refitted, dataset, chosen=log)
    version = ""
    if this_process().is_main_process:
        provenance = twin.provenance.model_copy(
            update={
                "split_fingerprint": dataset.split_fingerprint,
                "parents": parents,
                "final_fit_of": twin.version,
            }
        )
        staged = store.stage(trained.parts, provenance=provenance)
        try:
            Bundle.load(staged.folder, measuring_device())
            metrics = [metric.model_copy(update={"metrics_of": twin.version}) for metric in twin.metrics]
            version = store.publish(staged, metrics=metrics)
        except BaseException:
            staged.discard()
            raise
        workspace.mark_published(checkpoints, version, log=trained.log)
    return as_main_says(version)


def final_parents(recipe: Recipe, parents: Mapping[str, str], *, store: ModelStore) -> dict[str, str]:
    """Role -> the final fit of that parent; itself where it has none and training only starts from it.

    RunRefused where one of `weighed_parents` has none: half of what ships would not know the last events.
    """
    found = {}
    for role, version in parents.items():
        final = final_of(version, store)
        if final is None and role in recipe.weighed_parents:
            run = store.manifest(version).provenance.run
            raise RunRefused(
                f"final_fit = true: recipe.{role} is {version}, which is a part of what ships and has no final fit: "
                f"set final_fit = true in the run file of {run} and run it first, or set final_fit = false"
            )
        found[role] = final or version
    return found


def check_choices(recipe: Recipe, log: Mapping[str, object], *, twin: Manifest) -> None:
    missing = [figure for figure in recipe.chosen_figures if log.get(figure) is None]
    if missing:
        raise RunRefused(
            f"final fit of {twin.version}: its training log, of an earlier release or workspace, says nothing of "
            f"{', '.join(missing)}: remove that version from the store and run again, or ship it as it is"
        )


def final_of(version: str, store: ModelStore) -> str | None:
    """The newest final fit of a version, or None."""
    made = [manifest.version for manifest in store.list() if manifest.provenance.final_fit_of == version]
    return max(made, default=None)


def evaluated_twin(version: str, store: ModelStore) -> str:
    """The version whose figures stand for this one: its twin, or itself where it is no final fit."""
    return store.manifest(version).provenance.final_fit_of or version
