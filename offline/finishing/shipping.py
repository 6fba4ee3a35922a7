"""A version that was compared, made ready to serve: it and all that it is made of, fitted again to every event."""

from __future__ import annotations

import logging

from model_store.manifest import Manifest
from model_store.store import ModelStore
from offline import datasets, families
from offline.evaluation.version_scores import data_of, split_of
from offline.finishing.final_fit import check_choices, final_fit, final_of
from offline.recipe import Recipe
from offline.run_config import RunRefused
from offline.workspace import Workspace

logger = logging.getLogger(__name__)


def ship(version: str, *, store: ModelStore, workspace: Workspace) -> str:
    """The final fit of an evaluated version; parents first. Returns the version that ships; what is there is not made
    again.

    RunRefused where the data have changed, the training log is gone, or the recipe cannot be fitted again.
    """
    twin = store.manifest(version)
    if twin.provenance.final_fit_of is not None:
        return version
    made = final_of(version, store)
    if made is not None:
        logger.info("%s: its final fit is there already: %s", version, made)
        return made
    data = split_of(twin)
    recipe, log = _recipe(twin), workspace.training_log(version)
    if not recipe.refits:
        raise RunRefused(
            f"{version}: a {twin.family} of this recipe cannot be fitted again without choosing again; "
            f"serve it as it was measured: python -m model_store activate {version}"
        )
    check_choices(recipe, log, twin=twin)
    for role in recipe.refitted(log).parent_references():
        parent = twin.provenance.parents[role]
        if role in recipe.weighed_parents or _recipe(store.manifest(parent)).refits:
            ship(parent, store=store, workspace=workspace)
    logger.info("%s (%s): fitted to every event", version, twin.provenance.run)
    interactions = datasets.load(data_of(twin)[0])
    return final_fit(recipe, interactions, data.dataset, twin=twin, log=log, store=store, workspace=workspace)


def _recipe(manifest: Manifest) -> Recipe:
    return families.recipe_class(manifest.family).recorded(manifest.provenance.recipe)
