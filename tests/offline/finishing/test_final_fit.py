from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_store.manifest import Manifest
from model_store.store import ModelStore
from offline.__main__ import main
from offline.ease import ease_weights
from offline.evaluation.validation import Validation
from offline.evaluation.version_comparison import side_by_side
from offline.evaluation.version_scores import resolve, split_of
from offline.families.sasrec import Recipe
from offline.finishing.final_fit import evaluated_twin, final_of
from offline.pipeline import run
from offline.run_config import RunConfig, RunRefused
from offline.splits.training_split import histories_of
from offline.training.loop import FitPlan
from offline.workspace import Workspace

WriteRun = Callable[..., Path]


@pytest.fixture
def final(write_run: WriteRun, store: ModelStore, workspace: Workspace) -> Callable[..., tuple[Manifest, Manifest]]:
    """Runs with final_fit; what ships, and its evaluated twin."""

    def made(name: str, family: str, **recipe: str) -> tuple[Manifest, Manifest]:
        file = write_run(name, family, **recipe)
        file.write_text("final_fit = true\n" + file.read_text())
        shipped = store.manifest(run(RunConfig.load(file), store=store, workspace=workspace))
        return shipped, store.manifest(evaluated_twin(shipped.version, store))

    return made


def test_what_ships_is_fitted_to_every_event(
    final: Callable[..., tuple[Manifest, Manifest]], store: ModelStore, workspace: Workspace
) -> None:
    shipped, twin = final("ease", "ease", lam="5")
    assert shipped.version != twin.version
    data = split_of(twin)
    whole = [
        np.concatenate((data.test.histories.history(10 * user + 9).numpy(), data.test.targets[10 * user + 9 :][:1]))
        for user in range(24)
    ]
    expected = ease_weights(histories_of(whole), 30, lam=5)
    np.testing.assert_allclose(store.open(shipped.version).encoder.left.weight, expected, rtol=1e-5, atol=1e-7)  # type: ignore[union-attr, arg-type]
    popularity = store.open(shipped.version).catalog.popularity
    assert popularity.sum() == sum(map(len, whole)) > store.open(twin.version).catalog.popularity.sum()


def test_its_figures_are_the_twin_s_and_say_so(final: Callable[..., tuple[Manifest, Manifest]]) -> None:
    shipped, twin = final("ease", "ease", lam="5")
    assert {metric.metrics_of for metric in shipped.metrics} == {twin.version}
    assert {metric.metrics_of for metric in twin.metrics} == {None}
    assert [m.model_copy(update={"metrics_of": None}) for m in shipped.metrics] == twin.metrics
    assert shipped.provenance.final_fit_of == twin.version
    assert shipped.provenance.split_fingerprint != twin.provenance.split_fingerprint


def test_it_is_never_a_row_and_never_a_parent_of_what_is_evaluated(
    final: Callable[..., tuple[Manifest, Manifest]], write_run: WriteRun, store: ModelStore, workspace: Workspace
) -> None:
    shipped, twin = final("sasrec", "sasrec")
    with pytest.raises(RunRefused, match=rf"fitted to all events.*{twin.version}"):
        side_by_side([shipped.version], base=None, subset="test", store=store, workspace=workspace)
    with pytest.raises(RunRefused, match="fitted to all events"):
        split_of(shipped)
    assert [m.version for m in resolve("run:sasrec", store).versions] == [twin.version]
    child = write_run("child", "e4srec", items_from=f'"{shipped.version}"', history_input='"id"')
    with pytest.raises(RunRefused, match="fitted to another split"):
        run(RunConfig.load(child), store=store, workspace=workspace)
    named = RunConfig.load(write_run("child", "e4srec", items_from='"run:sasrec"', history_input='"id"'))
    made = run(named, store=store, workspace=workspace)
    assert store.manifest(made).provenance.parents == {"items_from": twin.version}


def test_epochs_are_the_chosen_ones_and_nothing_is_judged_again(
    final: Callable[..., tuple[Manifest, Manifest]],
    store: ModelStore,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[int] = []
    original = Validation.ndcg10

    def counting(self: Validation, *arguments: object) -> float:
        looks.append(1)
        # The first epoch is best, and the twin goes on for two more.
        original(self, *arguments)  # type: ignore[arg-type]
        return 1.0 / len(looks)

    monkeypatch.setattr(Validation, "ndcg10", counting)
    shipped, twin = final("sasrec", "sasrec")
    assert len(looks) == 3
    folders = {
        file.parent.name.split("-")[1] == "final": file for file in workspace.folder.glob("runs/*/published.json")
    }
    logs = {is_final: workspace.log_of(file.parent) for is_final, file in folders.items()}
    assert logs[False]["best_epoch"] == 1
    assert (logs[True]["epochs"], logs[True]["best_epoch"]) == (1, 1)
    assert final_of(twin.version, store) == shipped.version


def test_parents_are_final_fits_where_there_are_any(
    final: Callable[..., tuple[Manifest, Manifest]], store: ModelStore
) -> None:
    sasrec, sasrec_twin = final("sasrec", "sasrec")
    shipped, twin = final("reader", "e4srec", items_from='"run:sasrec"', history_input='"id"')
    assert twin.provenance.parents == {"items_from": sasrec_twin.version}
    assert shipped.provenance.parents == {"items_from": sasrec.version}


def test_what_was_chosen_beside_epochs_is_kept(
    final: Callable[..., tuple[Manifest, Manifest]], store: ModelStore, workspace: Workspace
) -> None:
    shipped, twin = final(
        "ease", "ease", lam="5", protocol="cold-items-0", cold_start='"regression"', popularity_debiasing="true"
    )
    offsets = [store.open(m.version).placer.config.constants for m in (shipped, twin)]  # type: ignore[union-attr]
    assert offsets[0] == offsets[1]
    logs = [workspace.log_of(file.parent) for file in workspace.folder.glob("runs/*/published.json")]
    assert logs[0]["popularity_strength"] == logs[1]["popularity_strength"]
    # No item is hidden any more: every one with an event has its own vector.
    assert store.open(shipped.version).catalog.popularity.min() > 0


def test_it_is_made_once(final: Callable[..., tuple[Manifest, Manifest]], store: ModelStore) -> None:
    shipped, _ = final("ease", "ease", lam="5")
    again, _ = final("ease", "ease", lam="5")
    assert again.version == shipped.version
    assert len(store.list_names()) == 2


def test_a_recipe_that_cannot_carry_its_choices_is_refused_before_training(write_run: WriteRun) -> None:
    file = write_run("both", "fused", parts='["run:a", "run:b"]')
    file.write_text("final_fit = true\n" + file.read_text())
    with pytest.raises(RunRefused, match=r"final_fit = true.*fused.*set final_fit = false"):
        RunConfig.load(file)


def test_folds_that_validation_ended_cannot_be_fitted_again(write_run: WriteRun) -> None:
    """A final fit has trained on the validation events: by them, the folds' trainings would never end."""
    for out_of_fold, refits in (("true", False), ("false", True)):
        recipe = {"items_from": '"run:s"', "gate": '"causal"', "out_of_fold": out_of_fold}
        assert RunConfig.load(write_run("i", "ilora", **recipe)).recipe.refits == refits


def test_activate_if_better_judges_the_twins(
    write_run: WriteRun, store: ModelStore, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [write_run("worse", "ease", lam="1000000", tau="1000000"), write_run("better", "ease", lam="5", tau="1")]
    for file in files:
        file.write_text("final_fit = true\n" + file.read_text())
        assert main(["--store", str(store.root), "run", str(file), "--activate", "if-better"]) == 0
    live = store.labels().live
    assert live is not None
    assert store.manifest(live).provenance.run == "better"
    assert store.manifest(live).provenance.final_fit_of is not None
    assert "is better than" in capsys.readouterr().out


def test_refitted_changes_the_length_alone() -> None:
    recipe = Recipe(fit=FitPlan(epochs=9, minutes=3, decay=True))
    refitted = recipe.refitted({"best_epoch": 6})
    assert refitted.fit == recipe.fit.model_copy(update={"stop_after": 6})
    assert refitted.fit.epochs == 9  # the learning rate falls as it did
