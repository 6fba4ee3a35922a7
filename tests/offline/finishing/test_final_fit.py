from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store.manifest import Manifest
from model_store.ranker import InterpolatedRanker
from model_store.store import ModelStore
from offline.__main__ import main
from offline.ease import ease_weights
from offline.evaluation.validation import Validation
from offline.evaluation.version_comparison import side_by_side
from offline.evaluation.version_scores import resolve, split_of
from offline.families import fused, llamarec
from offline.families.sasrec import Recipe
from offline.finishing.final_fit import evaluated_twin, final_of
from offline.finishing.weight_search import Fusion, choose_weights
from offline.language import sequence_residual
from offline.pipeline import run
from offline.ranking.reranking import RerankingProblem
from offline.recipe import TrainedModel
from offline.run_config import RunConfig, RunRefused
from offline.splits.sequences import SequenceDataset
from offline.splits.training_split import histories_of
from offline.training.loop import FitPlan
from offline.workspace import Workspace

WriteRun = Callable[..., Path]


@pytest.fixture
def final(write_run: WriteRun, store: ModelStore, workspace: Workspace) -> Callable[..., tuple[Manifest, Manifest]]:
    """Runs with final_fit; what ships, and its evaluated twin."""

    def made(name: str, family: str, *, bare: bool = False, **recipe: str) -> tuple[Manifest, Manifest]:
        file = write_run(name, family, **recipe)
        if bare:  # of what trains nothing, and refuses the keys of a training
            head = file.read_text().partition("[recipe]")[0]
            lines = [f"{key} = {value}" for key, value in recipe.items()]
            file.write_text("\n".join([head, "[recipe]", f'family = "{family}"', *lines]) + "\n")
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


def test_a_fusion_keeps_weights_and_fuses_final_fits(
    final: Callable[..., tuple[Manifest, Manifest]],
    store: ModelStore,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (sasrec, _), (ease, _) = final("sasrec", "sasrec"), final("ease", "ease", lam="5", tau="1")
    choices: list[Fusion] = []

    def choosing(*arguments: Any, **options: Any) -> Fusion:
        choices.append(choose_weights(*arguments, **options))
        return choices[-1]

    monkeypatch.setattr(fused, "choose_weights", choosing)
    shipped, twin = final("both", "fused", parts='["run:sasrec", "run:ease"]')
    assert len(choices) == 1
    assert min(choices[0].weights) > 0
    bundles = {m.version: store.open(m.version) for m in (shipped, twin, sasrec, ease)}
    for version in (shipped.version, twin.version):
        assert bundles[version].encoder.config.weights == choices[0].on_queries  # type: ignore[attr-defined]
    assert shipped.provenance.parents == {"parts[0]": sasrec.version, "parts[1]": ease.version}
    # Its parts know every event, and so does its catalogue.
    vectors_ND = np.hstack([bundles[part.version].index.vectors_ND for part in (sasrec, ease)])
    np.testing.assert_array_equal(bundles[shipped.version].index.vectors_ND, vectors_ND)
    popularity = [bundles[m.version].catalog.popularity.tolist() for m in (shipped, ease)]
    assert popularity[0] == popularity[1]
    assert sum(popularity[0]) > bundles[twin.version].catalog.popularity.sum()
    assert {metric.metrics_of for metric in shipped.metrics} == {twin.version}
    assert [m.model_copy(update={"metrics_of": None}) for m in shipped.metrics] == twin.metrics
    logs = [workspace.training_log(m.version) for m in (shipped, twin)]
    assert logs[0]["weights"] == logs[1]["weights"] == list(choices[0].weights)
    assert logs[0]["deviations"] == logs[1]["deviations"]


@pytest.mark.parametrize(
    ("family", "more"), [("e4srec", {"history_input": '"id"'}), ("ilora", {"experts": "2"})], ids=["e4srec", "ilora"]
)
def test_a_residual_keeps_beta(
    final: Callable[..., tuple[Manifest, Manifest]],
    store: ModelStore,
    workspace: Workspace,
    *,
    family: str,
    more: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sequence_residual, "BETAS", (0.75,))
    sasrec, _ = final("sasrec", "sasrec")
    shipped, twin = final("residual", family, items_from='"run:sasrec"', residual="true", **more)
    for manifest in (shipped, twin):
        assert store.open(manifest.version).encoder.config.residual.beta == 0.75  # type: ignore[attr-defined]
    assert shipped.provenance.parents == {"items_from": sasrec.version}
    logs = [workspace.training_log(m.version) for m in (shipped, twin)]
    assert [log["beta"] for log in logs] == [0.75, 0.75]
    assert ["ndcg_by_beta" in log for log in logs] == [False, True]
    assert logs[0]["epochs"] == logs[1]["best_epoch"]


@pytest.mark.parametrize("ranker", ["verbalizer", "pointwise"])
def test_llamarec_keeps_its_weight(
    final: Callable[..., tuple[Manifest, Manifest]],
    store: ModelStore,
    workspace: Workspace,
    *,
    ranker: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its folds' retrievers train as long as the twin's: judged by events that they learn from, they never ended."""
    fitted: list[tuple[str, int | None]] = []
    original = Recipe.train

    def spying(self: Recipe, dataset: SequenceDataset, checkpoints: Path, *rest: Any) -> TrainedModel:
        fitted.append((checkpoints.name, self.fit.stop_after))
        return original(self, dataset, checkpoints, *rest)

    def weighed(problem: RerankingProblem, ranker: InterpolatedRanker) -> dict[str, object]:
        ranker.config = ranker.config.model_copy(update={"weight": 0.35})
        weighings.append(len(problem.found))
        return {"weight": 0.35}

    weighings: list[int] = []
    monkeypatch.setattr(llamarec, "choose_weight", weighed)
    sasrec, _ = final("sasrec", "sasrec")
    parents = {"retriever": sasrec.version}
    monkeypatch.setattr(Recipe, "train", spying)
    if ranker == "verbalizer":
        shipped, twin = final("ranked", "llamarec", retriever='"run:sasrec"')
    else:
        reader, _ = final("reader", "e4srec", items_from='"run:sasrec"', history_input='"id"')
        parents["vectors_from"] = reader.version
        recipe = {"ranker": '"pointwise"', "retriever": '"run:sasrec"', "vectors_from": '"run:reader"', "window": "6"}
        shipped, twin = final("ranked", "llamarec", bare=True, **recipe)
    assert len(weighings) == 1
    for manifest in (shipped, twin):
        found = store.open(manifest.version).ranker
        assert isinstance(found, InterpolatedRanker)
        assert found.config.weight == 0.35
    assert shipped.provenance.parents == parents
    logs = [workspace.training_log(m.version) for m in (shipped, twin)]
    assert logs[0]["weight"] == 0.35
    if ranker == "verbalizer":
        epochs = logs[1]["fold_epochs"]
        assert isinstance(epochs, list)
        assert fitted == [("fold-0", None), ("fold-1", None), ("fold-0", epochs[0]), ("fold-1", epochs[1])]
        assert logs[0]["epochs"] == logs[1]["best_epoch"]


@pytest.mark.parametrize(
    ("family", "role", "recipe"),
    [
        ("fused", r"parts\[0\]", {"parts": '["run:sasrec", "run:ease"]'}),
        ("e4srec", "items_from", {"items_from": '"run:sasrec"', "residual": "true", "history_input": '"id"'}),
        ("llamarec", "retriever", {"retriever": '"run:sasrec"'}),
    ],
    ids=["fused", "e4srec", "llamarec"],
)
def test_a_weighed_parent_without_a_final_fit_is_refused_before_training(
    final: Callable[..., tuple[Manifest, Manifest]],
    write_run: WriteRun,
    store: ModelStore,
    workspace: Workspace,
    *,
    family: str,
    role: str,
    recipe: dict[str, str],
) -> None:
    twin = run(RunConfig.load(write_run("sasrec", "sasrec")), store=store, workspace=workspace)
    final("ease", "ease", lam="5")
    before = store.list_names()
    with pytest.raises(RunRefused, match=rf"recipe\.{role} is {twin}.*final_fit = true in the run file of sasrec"):
        final("child", family, **recipe)
    assert store.list_names() == before


def test_a_log_of_an_earlier_release_is_refused_with_the_cure(
    final: Callable[..., tuple[Manifest, Manifest]], write_run: WriteRun, store: ModelStore, workspace: Workspace
) -> None:
    final("sasrec", "sasrec")
    final("ease", "ease", lam="5")
    parts = '["run:sasrec", "run:ease"]'
    twin = run(RunConfig.load(write_run("both", "fused", parts=parts)), store=store, workspace=workspace)
    (file,) = workspace.folder.glob("runs/both-*/published.json")
    written = json.loads(file.read_text())
    del written["log"]["deviations"]
    file.write_text(json.dumps(written))
    with pytest.raises(RunRefused, match=rf"{twin}.*says nothing of deviations.*remove that version.*run again"):
        final("both", "fused", parts=parts)


def test_what_was_chosen_is_no_part_of_the_recipe() -> None:
    recipe = fused.Recipe(parts=("a", "b"))
    refitted = recipe.refitted({"weights": [0.5, 0.5], "deviations": [1.0, 2.0]})
    assert refitted.model_dump_json() == recipe.model_dump_json()
    assert Fusion.kept({"weights": [0.5, 0.5], "deviations": [1.0, 2.0]}).on_queries == (0.5, 0.25)


def test_a_recipe_that_cannot_carry_its_choices_is_refused_before_training(write_run: WriteRun) -> None:
    file = write_run("i", "ilora", items_from='"run:s"', out_of_fold="true")
    file.write_text("final_fit = true\n" + file.read_text())
    with pytest.raises(RunRefused, match=r"final_fit = true.*ilora.*set final_fit = false"):
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
