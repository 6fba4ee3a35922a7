"""Per-event scores of published versions, measured once and kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from model_store.manifest import Manifest
from model_store.store import ModelStore
from offline import datasets, families
from offline.datasets import DataConfig
from offline.evaluation.full_ranking import evaluate
from offline.evaluation.metrics import EventScores
from offline.evaluation.protocol_figures import depth_of
from offline.run_config import RunRefused
from offline.splits.protocols import Protocol, split
from offline.splits.sequences import Queries, Split
from offline.training.processes import measuring_device
from offline.workspace import Workspace

logger = logging.getLogger(__name__)
Subset = Literal["validation", "test"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a comparison: the versions that one run made, a seed each."""

    name: str
    versions: tuple[Manifest, ...]


def resolve(reference: str, store: ModelStore) -> Row:
    """A version, `run:NAME` for the newest version of every seed of that run (of one recipe: the newest version's), or
    `run:NAME@2` for its seed 2 alone.
    RunRefused when there is none.
    """
    if not reference.startswith("run:"):
        manifest = store.manifest(reference)
        check_evaluated(manifest)
        return Row(reference, (manifest,))
    name = reference.removeprefix("run:")
    run, _, seed = name.partition("@")
    made = [
        manifest
        for manifest in store.list()
        if manifest.provenance.run == run
        and manifest.provenance.final_fit_of is None
        and seed in ("", str(manifest.provenance.seed))
    ]
    if not made:
        raise RunRefused(f"{reference}: the store has no version of that run")
    alike = [manifest for manifest in made if _recipe_of(manifest) == _recipe_of(made[-1])]
    newest = {manifest.provenance.seed: manifest for manifest in alike}
    others = {manifest.provenance.seed for manifest in made} - set(newest)
    if others:
        seeds = ", ".join(map(str, sorted(others)))
        logger.warning(
            "%s: left out, of another recipe or other data than the newest version: seed %s", reference, seeds
        )
    return Row(name, tuple(newest[seed] for seed in sorted(newest)))


def _recipe_of(manifest: Manifest) -> tuple[object, ...]:
    """What the seeds of one row have in common: all but the seed, and the parents, of which each may have its own. An
    option that the record lacks is of later, and was at its default.
    """
    made = manifest.provenance
    recipe = dict(made.recipe)
    with suppress(ValueError):  # of a family, or with a key, that is no more
        recipe = families.recipe_class(manifest.family).recorded(recipe).model_dump(mode="json")
    named = {*made.parents.values(), *(reference for reference in _texts(recipe) if reference.startswith("run:"))}
    apart = {
        key: value for key, value in recipe.items() if key != "seed" and not named.intersection(_texts({key: value}))
    }
    return manifest.family, made.split_fingerprint, apart


def _texts(recipe: Mapping[str, object]) -> list[str]:
    """Values that are texts, and members of lists that are."""
    values = [each for value in recipe.values() for each in (value if isinstance(value, list) else [value])]
    return [value for value in values if isinstance(value, str)]


def check_evaluated(manifest: Manifest) -> None:
    """RunRefused for a final fit: nothing can be measured on events that it was fitted to."""
    twin = manifest.provenance.final_fit_of
    if twin is not None:
        raise RunRefused(
            f"{manifest.version} was fitted to all events, test events too: it is no row of a comparison. Its figures "
            f"are those of {twin}"
        )


@lru_cache(maxsize=8)
def load_split(data: DataConfig, protocol: Protocol) -> Split:
    """Kept for the next one who asks: several rows of a table stand on the same split."""
    return split(datasets.load(data), protocol)


def split_of(manifest: Manifest) -> Split:
    """The data that a version was fitted to, loaded again; RunRefused when it is not the same any more."""
    check_evaluated(manifest)
    provenance = manifest.provenance
    found = load_split(*data_of(manifest))
    if found.dataset.split_fingerprint != provenance.split_fingerprint:
        raise RunRefused(f"{manifest.version}: {provenance.dataset} has changed since this version was fitted to it")
    return found


def data_of(manifest: Manifest) -> tuple[DataConfig, Protocol]:
    """As the manifest names them; RunRefused when it does not. Versions of before December 2026 that were made of
    built-in data say its name alone.
    """
    made = manifest.provenance
    data = made.data or ({"kind": made.dataset} if made.dataset in datasets.BUILT_IN else {})
    try:
        return (
            TypeAdapter(DataConfig).validate_python(data),
            TypeAdapter(Protocol).validate_python(manifest.provenance.protocol),
        )
    except ValidationError as error:
        raise RunRefused(f"{manifest.version}: its manifest does not say which data it was fitted to") from error


def queries_of(data: Split, subset: Subset) -> Queries:
    return data.test if subset == "test" else data.dataset.validation


def scores_of(
    manifest: Manifest,
    *,
    subset: Subset,
    seen_removed: bool,
    among_cold: bool = False,
    store: ModelStore,
    workspace: Workspace,
) -> EventScores:
    """From the file that ships, by full ranking; kept in the workspace as ranks and lists, so a second look is free.

    among_cold: only the cold items of the protocol are ranked.
    """
    kind = ("unseen" if seen_removed else "all") + ("-among-cold" if among_cold else "")
    file = workspace.scores_file(manifest.version, f"{subset}-{kind}")
    data = split_of(manifest)
    queries = queries_of(data, subset)
    if file.exists():
        return _read(file, queries, seen_removed=seen_removed)
    scores = evaluate(
        store.open(manifest.version, measuring_device()),
        queries,
        seen_removed=seen_removed,
        k=depth_of(data, subset),
        allowed_N=data.dataset.cold_items if among_cold else None,
    )
    fresh = file.with_suffix(".new.npz")
    np.savez_compressed(fresh, top_rows=scores.top_rows)
    fresh.rename(file)
    return scores


def _read(file: Path, queries: Queries, *, seen_removed: bool) -> EventScores:
    with np.load(file, allow_pickle=False) as saved:
        return EventScores.of(
            queries.users,
            queries.targets,
            top_rows=saved["top_rows"],
            seen_removed=seen_removed,
            weights=queries.weights,
        )
