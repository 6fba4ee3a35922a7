"""The training probe as units of work: one training per arm, learning rate and seed, on nine tenths of the users."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from offline import datasets
from offline.claims.probe import SEEDS, run_probe
from offline.claims.probe_runs import ProbeRun
from offline.claims.training_ease import ARMS, RATES
from offline.compare.arms import BY_NAME
from offline.compare.found_versions import FoundVersions
from offline.compare.recipes import fingerprint, run_config
from offline.compare.settings import Settings
from offline.recipe import Recipe
from offline.workspace import Workspace

BASELINE = "sasrec"
EPOCHS = 3
MINUTES = 4.0  # until one was measured


def probe_runs() -> list[tuple[str, float | None, int]]:
    """(arm, learning rate, seed) of every run: SASRec's own, then the arms'."""
    alone: list[tuple[str, float | None, int]] = [(BASELINE, None, seed) for seed in SEEDS]
    return alone + [(name, rate, seed) for name in ARMS for seed in SEEDS for rate in RATES]


def probe_file(name: str, rate: float | None, seed: int, found: FoundVersions) -> Path:
    which = "" if rate is None else f"-{rate:g}"
    return found.settings.report / "probe" / f"{name}{which}-{seed}.{_identity(name, seed, found)}.json"


def probe(name: str, rate: float | None, seed: int, *, found: FoundVersions, workspace: Workspace) -> None:
    """Trains one, and SASRec of that seed before it where that was not done; keeps its record beside the page."""
    settings = found.settings
    file = probe_file(name, rate, seed, found)
    if file.exists():
        return
    own = f"{name}.{_identity(name, seed, found)}"
    run_probe(
        datasets.load(settings.data),
        {} if rate is None else {own: _recipe(name, found)},
        sasrec=_recipe(BASELINE, found),
        folder=(folder := workspace.folder / "probe" / f"{settings.dataset}-{_identity(BASELINE, seed, found)}"),
        epochs=EPOCHS,
        rates=() if rate is None else (rate,),
        seeds=(seed,),
    )
    made = f"{BASELINE}-{seed}" if rate is None else f"{own}-{rate:g}-{seed}"
    run = ProbeRun.model_validate_json((folder / "runs" / f"{made}.json").read_text())
    file.parent.mkdir(parents=True, exist_ok=True)
    run.model_copy(update={"arm": name}).save(file)


def read_probe(found: FoundVersions) -> tuple[ProbeRun, ...]:
    """The runs that are there, as they would be made now."""
    files: Iterable[Path] = (probe_file(*run, found) for run in probe_runs() if _known(run[0], found))
    return tuple(ProbeRun.model_validate_json(file.read_text()) for file in files if file.exists())


def _known(name: str, found: FoundVersions) -> bool:
    families = {BY_NAME[arm].family for arm in (name, BASELINE)}
    return families <= set(found.tuned) and not found.refusals.get(name)


def _recipe(arm: str, found: FoundVersions) -> Recipe:
    """The version that it names is put in by the probe."""
    parents = dict.fromkeys(BY_NAME[arm].parent_arms(), "of-the-probe")
    tuned = found.tuned.get(BY_NAME[arm].family)
    settings: Settings = found.settings
    config = run_config(BY_NAME[arm], settings, protocol=settings.headline, seed=0, parents=parents, tuned=tuned)
    # Nobody has a teacher here: the question is what each learns by itself.
    untaught = {"distillation": 0.0} if BY_NAME[arm].family == "ilora" else {}
    return config.varied(untaught).recipe if untaught else config.recipe


def _identity(name: str, seed: int, found: FoundVersions) -> str:
    arm = BY_NAME[name]
    of_data = found.split(found.settings.headline).dataset.fingerprint[:6]
    return f"{fingerprint(arm, found.settings, seed=seed, tuned=found.tuned)}-{of_data}-{EPOCHS}"
