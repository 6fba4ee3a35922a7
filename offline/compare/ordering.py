"""What each event is worth when its history is shuffled: kept beside the score files, one file per arm and seed."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np

from offline.claims.inputs import OrderScores
from offline.compare.arm import Arm
from offline.compare.arms import BY_NAME
from offline.compare.found_versions import FoundVersions
from offline.compare.parts import version_in
from offline.compare.recipes import fingerprint
from offline.compare.scores import ArmScores
from offline.evaluation.metrics import Floats
from offline.evaluation.shuffled import shuffled_values
from offline.run_config import RunRefused

ORDERED = ("sasrec", "ilora", "contriever", "llm2vec", "e4srec")
SHUFFLES = 1  # of each seed, and of each seed another: five in all
MINUTES = 3.0  # until one was measured


def order_file(arm: Arm, seed: int, found: FoundVersions) -> Path:
    """Named by what it is of: a file of another recipe or other data has another name."""
    split_fingerprint = found.split(found.settings.headline).dataset.split_fingerprint[:6]
    identity = fingerprint(arm, found.settings, seed=seed, tuned=found.tuned)
    return found.settings.report / "order" / f"{arm.name}.{seed}.{identity}-{split_fingerprint}.npz"


def is_measured(arm: Arm, seed: int, found: FoundVersions) -> bool:
    """Whether the version that stands for this arm was asked: not one of the same recipe under another budget."""
    file = order_file(arm, seed, found)
    if not file.exists():
        return False
    version = found.find(arm, found.settings.headline, seed if arm.drawn else 0)
    return version is None or version_in(file) in (None, version)


def measure_order(arm: Arm, seed: int, found: FoundVersions) -> None:
    """Means over the seed's shuffles of NDCG@10, the whole history shuffled, and all but its last item."""
    if is_measured(arm, seed, found):
        return
    file = order_file(arm, seed, found)
    version = found.find(arm, found.settings.headline, seed)
    if version is None:
        raise RunRefused(f"{arm.name}: no version was made for {found.settings.headline}, seed {seed}")
    data, started = found.split(found.settings.headline), time.perf_counter()
    bundle, seen_removed = found.store.open(version), data.dataset.exclude_seen
    shuffled = partial(
        shuffled_values, bundle, data.test, seen_removed=seen_removed, shuffles=SHUFFLES, first=seed * SHUFFLES
    )
    whole, but_last = shuffled(what="all").mean(axis=0), shuffled(what="all but last").mean(axis=0)
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new.npz")
    np.savez_compressed(
        fresh,
        allow_pickle=False,
        all=whole.astype(np.float32),
        but_last=but_last.astype(np.float32),
        seconds=np.float64(time.perf_counter() - started),
        version=np.array(version),
    )
    fresh.replace(file)


def read_order(warm: dict[str, ArmScores], found: FoundVersions) -> dict[str, OrderScores]:
    """Of the runs that were measured both ways, by one and the same version."""
    order: dict[str, OrderScores] = {}
    for name in ORDERED:
        if name not in warm:
            continue
        files = {seed: order_file(BY_NAME[name], seed, found) for seed in warm[name].seeds}
        versions = dict(zip(warm[name].seeds, (meta.version for meta in warm[name].metas), strict=True))
        there = [s for s, file in files.items() if file.exists() and version_in(file) in (None, versions[s])]
        if there:
            true_SE = warm[name].ndcg10_SE[[warm[name].seeds.index(seed) for seed in there]]
            order[name] = OrderScores(
                true_SE, *(_stacked([files[seed] for seed in there], of) for of in ("all", "but_last"))
            )
    return order


def _stacked(files: list[Path], name: str) -> Floats:
    rows = []
    for file in files:
        with np.load(file, allow_pickle=False) as saved:
            rows.append(saved[name].astype(np.float64))
    return np.stack(rows)
