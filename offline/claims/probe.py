"""The training probe: how fast a family learns, measured on users that nothing was fitted to."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import PrivateAttr

from model_store.bundle import Bundle
from model_store.manifest import Provenance
from model_store.store import ModelStore
from offline.claims.probe_looks import Looks
from offline.claims.probe_runs import ProbeRun, read_runs
from offline.claims.training_ease import RATES
from offline.datasets.interactions import Interactions
from offline.recipe import Recipe, TrainedModel
from offline.splits.protocols import histories_of, split
from offline.splits.sequences import Queries, SequenceDataset
from offline.training.loop import Diverged, FitPlan
from offline.training.objectives import Objective
from offline.training.progress import Progress

SEEDS = (0, 1, 2)
WITHHELD = 0.1
# Of each withheld user at most, evenly spread: intervals are over users, and looking at every event would take as long
# as the training between two looks.
EVENTS = 40

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class ProbeData:
    """dataset: the split of the users that may be fitted to. queries: events of the withheld users, never their first,
    each with the true history before it."""

    dataset: SequenceDataset
    queries: Queries


def withhold(interactions: Interactions, *, share: float = WITHHELD, events: int = EVENTS, seed: int = 0) -> ProbeData:
    """Leaves `share` of the users out of everything: training, validation, popularity, catalogue statistics.

    events: of each of them are asked for, evenly spread from the second to the last; all where there are no more.
    """
    users = len(interactions.user_ids)
    withheld = np.random.default_rng(seed).permutation(users)[: max(1, round(share * users))]
    kept_E = ~np.isin(interactions.users, withheld)
    kept_users = np.setdiff1d(np.arange(users), withheld)
    rest = replace(
        interactions,
        fingerprint=f"{interactions.fingerprint} without {share:g} of the users, seed {seed}",
        user_ids=tuple(interactions.user_ids[user] for user in kept_users),
        users=np.searchsorted(kept_users, interactions.users[kept_E]).astype(np.int32),
        item_rows=interactions.item_rows[kept_E],
        times_ms=interactions.times_ms[kept_E],
    )
    sequences = interactions.sequences()
    places = [(user, place) for user in sorted(withheld) for place in _spread(len(sequences[user]), events)]
    queries = Queries(
        histories=histories_of([sequences[user][:place] for user, place in places]),
        targets=np.array([sequences[user][place] for user, place in places], dtype=np.int32),
        users=np.array([user for user, _ in places], dtype=np.int32),
    )
    return ProbeData(split(rest, "last-10").dataset, queries)


def _spread(length: int, events: int) -> list[int]:
    """Up to `events` places of a sequence, from its second to its last."""
    return np.linspace(1, length - 1, min(events, length - 1)).round().astype(int).tolist() if length > 1 else []


class WatchedPlan(FitPlan):
    """A plan whose training is looked at after given numbers of targets, at the first step that reaches each."""

    _looks: Looks = PrivateAttr()

    @classmethod
    def of(cls, plan: FitPlan, looks: Looks, **changes: Any) -> WatchedPlan:
        """The same plan with some keys changed, one evaluation at the end, and no early stop."""
        epochs = changes.get("epochs", plan.epochs)
        whole = {"minutes": None, "evaluate_every": epochs, "patience": epochs, "average": 1}
        watched = cls(**plan.model_dump() | whole | changes)
        watched._looks = looks
        return watched

    def after_step(self, objective: Objective, progress: Progress, *, loss: float) -> None:
        self._looks.after_step(objective, targets=progress.targets, loss=loss)


def run_probe(
    interactions: Interactions,
    arms: Mapping[str, Recipe],
    *,
    sasrec: Recipe,
    folder: Path,
    epochs: int = 4,
    points: int = 20,
    rates: Sequence[float] = RATES,
    seeds: Sequence[int] = SEEDS,
) -> tuple[ProbeRun, ...]:
    """Trains what `folder` has no record of, and returns the records of all: SASRec's own, then every arm's.

    Each arm is trained on 90 % of the users with each learning rate and seed, for the same number of targets; every
    version that a recipe names is the SASRec of that seed, trained on those users too. Recipes are taken as they are
    but for seed, learning rate and length. A killed probe begins the interrupted run again.
    """
    data = withhold(interactions)
    records = folder / "runs"
    records.mkdir(parents=True, exist_ok=True)
    store = ModelStore(folder / "store")
    for seed in seeds:
        parent = _sasrec(sasrec.model_copy(update={"seed": seed}), data, store=store, records=records, points=points)
        for arm, recipe in arms.items():
            for rate in rates:
                file = records / f"{arm}-{rate:g}-{seed}.json"
                if not file.exists():
                    plan = {"learning_rate": rate, "epochs": epochs}
                    seeded = recipe.model_copy(update={"seed": seed})
                    run = _watched(arm, seeded, data, parent=parent, changes=plan, points=points)[0]
                    run.save(file)
                    log.info("%s at %g, seed %d: MRR %.4f", arm, rate, seed, run.mrr[-1])
    return read_runs(records)


def _watched(
    arm: str, recipe: Recipe, data: ProbeData, *, parent: Bundle | None, changes: dict[str, Any], points: int
) -> tuple[ProbeRun, TrainedModel | None]:
    plan = recipe.fit  # type: ignore[attr-defined]  # of every family that trains in steps
    epochs = changes.get("epochs", plan.epochs)
    per_epoch = int(np.maximum(data.dataset.train.lengths.numpy() - 1, 0).sum())
    at = np.unique(np.geomspace(epochs * per_epoch / 100, epochs * per_epoch, points).astype(int)).tolist()
    looks = Looks(at, data.queries, exclude_seen=data.dataset.exclude_seen)
    watched = recipe.model_copy(update={"fit": WatchedPlan.of(plan, looks, **changes)})
    parents = {} if parent is None else dict.fromkeys(recipe.parent_references(), parent)
    trained = None
    with tempfile.TemporaryDirectory() as checkpoints:
        try:
            trained = watched.train(data.dataset, Path(checkpoints), parents)
        except Diverged as error:
            log.warning("%s: %s", arm, error)
    rate = changes.get("learning_rate")
    return looks.record(arm, learning_rate=rate, seed=recipe.seed, diverged=trained is None), trained


def _sasrec(recipe: Recipe, data: ProbeData, *, store: ModelStore, records: Path, points: int) -> Bundle:
    """The SASRec of one seed, trained on the same users; trained once, its record is written last."""
    file = records / f"sasrec-{recipe.seed}.json"
    made = [m.version for m in store.list() if m.provenance.seed == recipe.seed]
    if file.exists() and made:
        return store.open(made[-1])
    run, trained = _watched("sasrec", recipe, data, parent=None, changes={}, points=points)
    if trained is None:
        raise Diverged(f"the probe's SASRec, seed {recipe.seed}: the loss is no number; lower its learning rate")
    provenance = Provenance(
        run="probe-sasrec",
        recipe={},
        seed=recipe.seed,
        dataset=data.dataset.name,
        dataset_fingerprint=data.dataset.fingerprint,
        split_fingerprint=data.dataset.split_fingerprint,
        protocol=data.dataset.protocol,
        packages={},
        train_seconds=run.cpu_seconds[-1],
    )
    version = store.publish(store.stage(trained.parts, provenance=provenance))
    run.save(file)
    return store.open(version)
