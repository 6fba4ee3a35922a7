"""What each event is worth when its history is shuffled: kept beside the score files, one file per arm and seed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from offline.claims.inputs import OrderScores
from offline.compare.arm import Arm
from offline.compare.arms import BY_NAME
from offline.compare.found_versions import FoundVersions
from offline.compare.recipes import fingerprint
from offline.compare.scores import ArmScores
from offline.evaluation.full_ranking import evaluate
from offline.evaluation.metrics import Floats
from offline.evaluation.shuffled import shuffled_values
from offline.run_config import RunRefused

ORDERED = ("sasrec", "ilora", "contriever", "llm2vec", "e4srec")
METRIC = "ndcg@10"
SHUFFLES = 1  # of each seed, and of each seed another: five in all
MINUTES = 3.0  # until one was measured


def order_file(arm: Arm, seed: int, found: FoundVersions) -> Path:
    """Named by what it is of: a file of another recipe, other data or another budget has another name."""
    split_fingerprint = found.split(found.settings.headline).dataset.split_fingerprint[:6]
    identity = fingerprint(arm, found.settings, seed=seed, tuned=found.tuned)
    stem = f"{arm.name}.{seed}.{identity}-{split_fingerprint}-{found.settings.minutes:g}min"
    return found.settings.report / "order" / f"{stem}.npz"


def measure_order(arm: Arm, seed: int, found: FoundVersions) -> None:
    """NDCG@10 of each event: with true histories, and its means over the seed's shuffles, of the whole history and of
    all but its last item. All three of one version: the one that the score file is of may be on another machine.
    """
    file = order_file(arm, seed, found)
    if file.exists():
        return
    version = found.find(arm, found.settings.headline, seed)
    if version is None:
        raise RunRefused(f"{arm.name}: no version was made for {found.settings.headline}, seed {seed}")
    data, started = found.split(found.settings.headline), time.perf_counter()
    bundle, seen_removed = found.store.open(version), data.dataset.exclude_seen
    true = evaluate(bundle, data.test, seen_removed=seen_removed).values(METRIC)
    shuffled = partial(
        shuffled_values,
        bundle,
        data.test,
        seen_removed=seen_removed,
        metric=METRIC,
        shuffles=SHUFFLES,
        first=seed * SHUFFLES,
    )
    whole, but_last = shuffled(what="all").mean(axis=0), shuffled(what="all but last").mean(axis=0)
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    with fresh.open("wb") as out:
        np.savez_compressed(
            out,
            allow_pickle=False,
            true=true.astype(np.float32),
            all=whole.astype(np.float32),
            but_last=but_last.astype(np.float32),
            seconds=np.float64(time.perf_counter() - started),
        )
    fresh.replace(file)


def read_order(warm: Mapping[str, ArmScores], found: FoundVersions) -> dict[str, OrderScores]:
    """Of the arms and seeds that have scores and were asked."""
    order: dict[str, OrderScores] = {}
    for name in ORDERED:
        seeds = warm[name].seeds if name in warm else ()
        there = [file for seed in seeds if (file := order_file(BY_NAME[name], seed, found)).exists()]
        if there:
            order[name] = OrderScores(*(_stacked(there, what) for what in ("true", "all", "but_last")))
    return order


def _stacked(files: list[Path], name: str) -> Floats:
    rows = []
    for file in files:
        with np.load(file, allow_pickle=False) as saved:
            rows.append(saved[name].astype(np.float64))
    return np.stack(rows)
