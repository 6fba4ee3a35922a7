"""Per-event scores of published versions, measured once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from model_store.manifest import Manifest
from model_store.store import ModelStore
from offline import datasets
from offline.datasets import DataConfig
from offline.evaluation.full_ranking import evaluate
from offline.evaluation.metrics import EventScores
from offline.evaluation.protocol_figures import depth_of
from offline.run_config import RunRefused
from offline.splits.protocols import Protocol, split
from offline.splits.sequences import Queries, Split
from offline.training.processes import measuring_device
from offline.workspace import Workspace

Subset = Literal["validation", "test"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a comparison: the versions that one run made, a seed each."""

    name: str
    versions: tuple[Manifest, ...]


def resolve(reference: str, store: ModelStore) -> Row:
    """A version, `run:NAME` for the newest version of every seed of that run, or `run:NAME@2` for its seed 2 alone.
    RunRefused when there is none.
    """
    if not reference.startswith("run:"):
        manifest = store.manifest(reference)
        check_evaluated(manifest)
        return Row(reference, (manifest,))
    name = reference.removeprefix("run:")
    run, _, seed = name.partition("@")
    newest: dict[int, Manifest] = {}
    for manifest in store.list():
        provenance = manifest.provenance
        if provenance.run == run and provenance.final_fit_of is None and seed in ("", str(provenance.seed)):
            newest[provenance.seed] = manifest
    if not newest:
        raise RunRefused(f"{reference}: the store has no version of that run")
    return Row(name, tuple(newest[seed] for seed in sorted(newest)))


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
    try:
        config: DataConfig = TypeAdapter(DataConfig).validate_python(provenance.data)
        protocol: Protocol = TypeAdapter(Protocol).validate_python(provenance.protocol)
    except ValidationError as error:
        raise RunRefused(f"{manifest.version}: its manifest does not say which data it was fitted to") from error
    found = load_split(config, protocol)
    if found.dataset.split_fingerprint != provenance.split_fingerprint:
        raise RunRefused(f"{manifest.version}: {provenance.dataset} has changed since this version was fitted to it")
    return found


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
