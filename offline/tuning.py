"""Random search over the values that a run file lists under [tune], chosen on validation."""

from __future__ import annotations

import json
import logging
import multiprocessing
import random
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model_store.store import ModelStore
from offline import datasets
from offline.evaluation.validation import Validation
from offline.pipeline import open_parents
from offline.run_config import RunConfig, RunRefused
from offline.splits.protocols import split
from offline.training.loop import Diverged
from offline.training.processes import end_with_parent
from offline.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trial:
    """changes: dotted recipe key -> value. ndcg10: on validation; of a family that trains in epochs the mean of the
    last figures of the chosen one; 0 when the training diverged. epochs: 0 for a closed form."""

    number: int
    changes: dict[str, Any]
    ndcg10: float
    epochs: int
    seconds: float


def draw(config: RunConfig, trials: int) -> list[dict[str, Any]]:
    """Draws that make distinct recipes, the same for the same run file; trial 0 is the file as it stands."""
    if not config.tune:
        raise RunRefused(f"{config.name}: there is no [tune] section to draw from")
    generator = random.Random(0)
    drawn: list[dict[str, Any]] = [{}]
    recipes = [config.recipe.model_dump()]
    for _ in range(trials * 50):
        if len(drawn) == trials:
            break
        changes = {key: generator.choice(values) for key, values in sorted(config.tune.items())}
        recipe = config.varied(changes).recipe.model_dump()
        if recipe not in recipes:
            drawn.append(changes)
            recipes.append(recipe)
    return drawn


def tune(config: RunConfig, *, trials: int, jobs: int, store: ModelStore, workspace: Workspace) -> list[Trial]:
    """Runs what is not in the run's trial file yet (one JSON line per trial); returns all, best first.

    A run file whose data, protocol or recipe has changed begins a new trial file.
    """
    drawn = draw(config, trials)
    file = workspace.tuning_file(config.name, config.fingerprint(split_fingerprint=_data_of(config), parents={}))
    done = {trial.number: trial for trial in _read(file)}
    todo = [(number, changes) for number, changes in enumerate(drawn) if not _same(done.get(number), changes)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=end_with_parent) as pool:
        futures = [pool.submit(run_trial, config, number, changes, store.root) for number, changes in todo]
        try:
            for future in as_completed(futures):
                trial = future.result()
                done[trial.number] = trial
                with file.open("a") as out:
                    out.write(json.dumps({name: getattr(trial, name) for name in trial.__slots__}) + "\n")
                _say(trial)
        except BaseException:
            # Else the reason would wait for all that has not begun.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return sorted((done[n] for n in range(len(drawn))), key=lambda trial: -trial.ndcg10)


def _say(trial: Trial) -> None:
    logger.info("trial %d: ndcg@10 %.4f %s (%.0f s)", trial.number, trial.ndcg10, trial.changes, trial.seconds)


def run_trial(config: RunConfig, number: int, changes: dict[str, Any], store_folder: Path) -> Trial:
    """Trains the run with these changes and keeps nothing but the figure; what diverges has figure 0."""
    torch.set_num_threads(1)
    varied = config.varied(changes)
    dataset = split(datasets.load(varied.data), varied.protocol).dataset
    parents = open_parents(varied.recipe, store=ModelStore(store_folder), split_fingerprint=dataset.split_fingerprint)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as checkpoints:
        try:
            trained = varied.recipe.train(dataset, Path(checkpoints), parents)
        except Diverged as error:
            logger.warning("trial %d: %s", number, error)
            return Trial(number, changes, 0.0, 0, round(time.perf_counter() - started, 1))
        figure, epochs = trained.log.get("best_mean_ndcg@10"), trained.log.get("epochs", 0)
        if figure is None:
            validation = Validation.of(dataset)
            figure = validation.ndcg10(trained.parts.encoder, trained.parts.item_vectors_ND)
    assert isinstance(figure, float)
    assert isinstance(epochs, int)
    return Trial(number, changes, figure, epochs, round(time.perf_counter() - started, 1))


def _data_of(config: RunConfig) -> str:
    return config.data.model_dump_json() + config.protocol


def _read(file: Path) -> list[Trial]:
    return [Trial(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def _same(trial: Trial | None, changes: dict[str, Any]) -> bool:
    return trial is not None and trial.changes == changes
