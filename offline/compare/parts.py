"""Rankings that take long, a part of the events at a time: a ranker reads every list with a language model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from model_store.bundle import Bundle
from offline.evaluation.full_ranking import evaluate
from offline.evaluation.metrics import EventScores
from offline.evaluation.protocol_figures import depth_of
from offline.splits.sequences import Queries, Split


def part_file(folder: Path, stem: str, part: int, parts: int) -> Path:
    """stem: names what is ranked and by which recipe; a part of another one has another name."""
    return folder / "parts" / f"{stem}.{part + 1}of{parts}.npz"


def rank_part(bundle: Bundle, data: Split, file: Path, *, part: int, parts: int) -> None:
    """The lists of one run of events, as the data set asks (seen items removed or not). A part that another version was
    asked for (the same recipe under another budget) is made again.
    """
    if file.exists() and version_in(file) in (None, bundle.version):
        return
    chosen = np.array_split(np.arange(len(data.test)), parts)[part]
    scores = evaluate(
        bundle, select(data.test, chosen), seen_removed=data.dataset.exclude_seen, k=depth_of(data, "test")
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new.npz")
    np.savez_compressed(fresh, allow_pickle=False, top_rows=scores.top_rows, version=np.array(bundle.version))
    fresh.replace(file)


def version_in(file: Path) -> str | None:
    """Which version a file of measurements is of; None where it does not say."""
    with np.load(file, allow_pickle=False) as saved:
        return str(saved["version"]) if "version" in saved else None


def joined(files: list[Path], data: Split) -> EventScores:
    """All parts, in order."""
    tops = []
    for file in files:
        with np.load(file, allow_pickle=False) as saved:
            tops.append(saved["top_rows"])
    return EventScores.of(
        data.test.users,
        data.test.targets,
        top_rows=np.concatenate(tops),
        seen_removed=data.dataset.exclude_seen,
        weights=data.test.weights,
    )


def select(queries: Queries, chosen: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Queries:
    """The queries of these numbers."""
    rows = chosen.tolist()
    return replace(
        queries,
        histories=queries.histories.select(rows),
        targets=queries.targets[chosen],
        users=queries.users[chosen],
        weights=None if queries.weights is None else queries.weights[chosen],
        seen=None if queries.seen is None else queries.seen.select(rows),
    )
