from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError

from model_store.bundle import Bundle
from model_store.encoders.history import ItemTextEncoder
from model_store.errors import BundleRefused
from model_store.item_placer import ItemPlacer, PlacerConfig
from model_store.item_reader import item_reader
from model_store.staging import BundleParts
from model_store.store import ModelStore
from offline.datasets import Interactions, load
from offline.evaluation.full_ranking import evaluate
from offline.families.contriever import Recipe as Contriever
from offline.families.ease import Recipe as Ease
from offline.families.ilora import Recipe as Ilora
from offline.families.sasrec import Recipe
from offline.finishing import cold_start
from offline.finishing.cold_start import place_cold_items
from offline.finishing.content_regression import fit_regression
from offline.language.item_text import item_texts
from offline.pipeline import run
from offline.run_config import RunConfig
from offline.splits.protocols import split
from offline.splits.sequences import Split
from offline.training.loop import FitPlan
from offline.workspace import Workspace

OpenBundle = Callable[[BundleParts], Bundle]
WriteRun = Callable[..., Path]
TEMPLATE = "{title} {categories}"


@pytest.fixture(scope="module")
def data(small_world: Interactions) -> Split:
    """An item's text is where it stands on the walk: near items share words."""
    titles = [" ".join(f"near{(row + step) % 40}" for step in range(-3, 4)) for row in range(40)]
    items = small_world.items.with_columns(title=pl.Series(titles))
    return split(replace(small_world, items=items), "cold-items-0")


@pytest.fixture(scope="module")
def parts(data: Split, tmp_path_factory: pytest.TempPathFactory) -> BundleParts:
    recipe = Recipe(dim=16, max_history=16, fit=FitPlan(epochs=40, evaluate_every=10, batch=16, learning_rate=1e-2))
    return recipe.train(data.dataset, tmp_path_factory.mktemp("sasrec"), {}).parts


def test_new_items_stand_where_their_texts_say(
    data: Split, parts: BundleParts, open_bundle: OpenBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold_start, "OFFSETS", (-0.125,))  # the one chosen in so small a world is none
    placed, log = place_cold_items(parts, data.dataset, template=TEMPLATE)
    cold = data.dataset.cold_items
    assert placed.item_vectors_ND.shape == (40, 17)
    assert torch.equal(placed.item_vectors_ND[~cold, :16], parts.item_vectors_ND[~cold])
    assert (placed.item_vectors_ND[~cold, 16] == 0).all()
    assert float(str(log["cold_offset"])) < 0
    assert placed.item_vectors_ND[cold, 16].numpy() == pytest.approx(log["cold_offset"])
    recalls = [
        evaluate(open_bundle(each), data.test, seen_removed=False, k=1, allowed_N=cold).mean("hr@1")
        for each in (parts, placed)
    ]
    assert recalls[1] > recalls[0] + 0.15  # of four cold items one is near


def test_the_bundle_places_an_item_by_text_alone(data: Split, parts: BundleParts, open_bundle: OpenBundle) -> None:
    placed, log = place_cold_items(parts, data.dataset, template=TEMPLATE)
    bundle = open_bundle(placed)
    assert isinstance(bundle.placer, ItemTextEncoder)
    assert bundle.placer.config.item_text == TEMPLATE
    cold = np.flatnonzero(data.dataset.cold_items)
    titles = data.dataset.items["title"].gather(cold).to_list()
    categories = [", ".join(each) for each in data.dataset.items["categories"].gather(cold).to_list()]
    texts = [f"{title} {joined}" for title, joined in zip(titles, categories, strict=True)]
    torch.testing.assert_close(bundle.placer.encode_texts(texts), placed.item_vectors_ND[cold], rtol=1e-5, atol=1e-5)
    unheard = bundle.placer.encode_texts(["xyzzy", ""])
    assert torch.isfinite(unheard).all()
    assert log["cold_ridge"] in cold_start.RIDGES


@pytest.mark.parametrize("planted", ["text", "vector"])
def test_nothing_of_a_cold_item_reaches_what_is_fitted_or_chosen(planted: str, data: Split, parts: BundleParts) -> None:
    """Its text in the vocabulary, its vector in the regression: each would change something."""
    clean, log = place_cold_items(parts, data.dataset, template=TEMPLATE)
    dataset, changed = data.dataset, parts
    cold = torch.from_numpy(dataset.cold_items)
    if planted == "text":
        titles = [
            f"planted{row}" if dataset.cold_items[row] else title for row, title in enumerate(dataset.items["title"])
        ]
        dataset = replace(dataset, items=dataset.items.with_columns(title=pl.Series(titles)))
    elif planted == "vector":
        vectors = parts.item_vectors_ND.clone()
        vectors[cold] = 1e4
        changed = replace(parts, item_vectors_ND=vectors)
    placed, again = place_cold_items(changed, dataset, template=TEMPLATE)
    assert clean.placer is not None
    assert placed.placer is not None
    assert placed.placer.config.vocabulary == clean.placer.config.vocabulary
    np.testing.assert_array_equal(placed.placer.weights_FD, clean.placer.weights_FD)
    assert again == log
    warm = ~cold
    assert torch.equal(placed.item_vectors_ND[warm], clean.item_vectors_ND[warm])


def test_folds_are_placed_by_a_regression_without_them(
    data: Split, parts: BundleParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    original = fit_regression

    def counting(features: object, *arguments: object, **options: object) -> object:
        counts.append(features.shape[0])  # type: ignore[attr-defined]
        return original(features, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(cold_start, "fit_regression", counting)
    place_cold_items(parts, data.dataset, template=TEMPLATE)
    trained = int(data.dataset.trained_items.sum())
    assert counts[-1] == trained
    assert max(counts[:-1]) < trained


def test_a_run_asks_for_it_and_the_manifest_tells(write_run: WriteRun, store: ModelStore, workspace: Workspace) -> None:
    for family in ("ease", "sasrec"):
        file = write_run(f"{family}-placed", family, protocol="cold-items-0", cold_start='"regression"')
        version = run(RunConfig.load(file), store=store, workspace=workspace)
        manifest = store.manifest(version)
        assert manifest.encoder.kind == "appended"
        assert manifest.warnings == []
        assert {"placer/config.json", "placer/weights.safetensors"} <= set(manifest.files)
        (log,) = workspace.folder.glob(f"runs/{family}-placed-*/published.json")
        assert "cold_offset" in json.loads(log.read_text())["log"]
    weights = store.root / version / "placer/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(BundleRefused, match="placer/weights"):
        store.open(version)


COMMON = {"experts": "2", "space": '"common"', "dim": "8"}


@pytest.mark.parametrize(
    ("family", "recipe"),
    [("e4srec", {"history_input": '"id"'}), ("ilora", COMMON), ("contriever", {"item_tower": '"id"', "dim": "8"})],
    ids=["e4srec", "ilora-common", "contriever-id"],
)
def test_language_models_that_know_items_by_id_place_new_ones(
    write_run: WriteRun, store: ModelStore, workspace: Workspace, *, family: str, recipe: dict[str, str]
) -> None:
    run(RunConfig.load(write_run("start", "sasrec")), store=store, workspace=workspace)
    file = write_run("placed", family, items_from='"run:start"', cold_start='"regression"', **recipe)
    # Opened as published: the golden queries have passed.
    bundle = store.open(run(RunConfig.load(file), store=store, workspace=workspace))
    assert bundle.manifest.encoder.kind == "appended"
    assert bundle.placer is not None
    assert bundle.text_tower is None
    placed_ND = bundle.placer.encode_texts(["Item 3", "Item 31"])
    assert placed_ND.shape == (2, bundle.manifest.dim)
    assert torch.isfinite(placed_ND).all()
    assert (placed_ND[:, :-1].norm(dim=1) > 0).all()


def test_a_fusion_places_new_items_for_all_its_parts(
    write_run: WriteRun, store: ModelStore, workspace: Workspace
) -> None:
    """One part is placed already: its offset is chosen anew for the whole. Trained items are answered as before."""
    made = {}
    for name, family, more in (
        ("start", "sasrec", {}),
        ("second", "ease", {"cold_start": '"regression"'}),
        ("plain", "fused", {}),
        ("placed", "fused", {"cold_start": '"regression"'}),
    ):
        parts = {"parts": '["run:start", "run:second"]'} if family == "fused" else {}
        file = write_run(name, family, protocol="cold-items-0", **parts, **more)
        made[name] = store.open(run(RunConfig.load(file), store=store, workspace=workspace))
    plain, placed = made["plain"], made["placed"]
    assert placed.manifest.encoder.kind == "appended"
    assert isinstance(placed.placer, ItemPlacer)
    widths = [made["start"].manifest.dim, made["second"].manifest.dim - 1, 1]
    assert [piece.width for piece in placed.placer.config.pieces] == widths
    assert [piece.norm > 0 for piece in placed.placer.config.pieces] == [True, True, False]
    new_D = placed.placer.encode_texts(["Item 3"])[0]
    for piece, part_W in zip(placed.placer.config.pieces, torch.split(new_D[:-1], widths), strict=True):
        assert float(part_W.norm()) == pytest.approx(piece.norm, rel=1e-4)
    data = split(load(RunConfig.load(file).data), "cold-items-0")
    trained = data.dataset.trained_items
    queries = data.dataset.validation
    before, after = (evaluate(each, queries, seen_removed=False, allowed_N=trained).ranks for each in (plain, placed))
    np.testing.assert_array_equal(before, after)
    new = ~trained
    assert (placed.index.vectors_ND[new, :-1] != plain.index.vectors_ND[new]).any()


@pytest.mark.parametrize("family", ["contriever", "llm2vec"])
def test_beside_a_text_tower_new_items_stand_halfway(
    family: str, write_run: WriteRun, store: ModelStore, workspace: Workspace
) -> None:
    made = {}
    for name, more in (("plain", {}), ("placed", {"cold_start": '"regression"'})):
        file = write_run(name, family, protocol="cold-items-0", dim="8", **more)
        made[name] = store.open(run(RunConfig.load(file), store=store, workspace=workspace))
    plain, placed = made["plain"], made["placed"]
    assert placed.manifest.warnings == plain.manifest.warnings == []
    assert placed.placer is not None
    assert placed.placer.config.tower_share == 0.5
    dataset = split(load(RunConfig.load(file).data), "cold-items-0").dataset
    new_N = ~dataset.trained_items
    np.testing.assert_array_equal(placed.index.vectors_ND[~new_N], plain.index.vectors_ND[~new_N])
    assert (placed.index.vectors_ND[new_N] != plain.index.vectors_ND[new_N]).any(axis=1).all()
    texts = item_texts(dataset.items, placed.placer.config.item_text)
    reader = item_reader(placed)
    assert reader is not None
    assert reader.by_meaning
    # An item that is put while the version serves stands where publishing would have put it.
    as_new_ND = reader.vectors(texts, [True] * len(texts))
    np.testing.assert_allclose(as_new_ND[new_N], placed.index.vectors_ND[new_N], rtol=1e-3, atol=2e-3)
    # A text that is searched with, and a trained item under a new title, are read as training read all of them.
    as_known_ND = reader.vectors(texts, [False] * len(texts))
    np.testing.assert_allclose(as_known_ND[~new_N], placed.index.vectors_ND[~new_N], rtol=1e-3, atol=2e-3)
    predicted_ND = 2 * (as_new_ND - as_known_ND / 2).double().numpy()
    vectors_RD = plain.index.vectors_ND[~new_N].astype(np.float64)
    np.testing.assert_allclose(predicted_ND[~new_N].mean(axis=0), vectors_RD.mean(axis=0), atol=2e-3)
    spreads = [np.linalg.norm(v - v.mean(axis=0), axis=1).mean() for v in (predicted_ND[~new_N], vectors_RD)]
    assert spreads[0] == pytest.approx(spreads[1], rel=2e-2)


def test_families_with_neither_ids_nor_a_text_tower_are_refused() -> None:
    with pytest.raises(ValidationError, match=r'cold_start = "regression" is for families.*set cold_start = "none"'):
        Ilora(cold_start="regression", space="common", item_tower="text", items_from="v")
    assert Contriever(cold_start="regression", item_tower="id", items_from="v").knows_items_by_id
    assert not Contriever(cold_start="regression").knows_items_by_id
    assert Ease(cold_start="regression").cold_start == "regression"
    with pytest.raises(ValidationError, match="item text knows"):
        Ease(item_text="{nothing}")


def test_a_placer_has_one_rule_for_lengths() -> None:
    given = {"item_text": "{title}", "vocabulary": ("a",), "unseen": 1.0}
    for lengths in ({}, {"norm": 1.0, "tower_share": 0.5}):
        with pytest.raises(ValidationError, match="norm is given where tower_share is not"):
            PlacerConfig.model_validate(given | lengths)


def test_unknown_items_are_shown_as_often_as_they_are_chosen(data: Split, parts: BundleParts) -> None:
    _, log = place_cold_items(parts, data.dataset, template=TEMPLATE)
    shown = log["cold_share_of_10_by_cold_offset"]
    assert isinstance(shown, dict)
    shares = list(shown.values())
    assert shares == sorted(shares)  # a higher offset shows more
    assert min(abs(share - 0.1) for share in shares) < 0.05


def test_a_year_that_no_trained_item_has_is_read_by_its_neighbours(small_world: Interactions, tmp_path: Path) -> None:
    """Near items on the walk are of near years, each year of its own: as words all years are strangers."""
    items = small_world.items.with_columns(title=pl.Series([f"film ({1950 + row})" for row in range(40)]))
    dataset = split(replace(small_world, items=items), "cold-items-0").dataset
    recipe = Recipe(dim=16, max_history=16, fit=FitPlan(epochs=40, evaluate_every=10, batch=16, learning_rate=1e-2))
    placed, _ = place_cold_items(recipe.train(dataset, tmp_path, {}).parts, dataset, template="{title}")
    assert placed.placer is not None
    vectors_ND = placed.placer.encode_texts(["film (1960)", "film (1961)", "film (1985)"])
    near, far = (torch.cosine_similarity(vectors_ND[0], vectors_ND[other], dim=0) for other in (1, 2))
    assert near > 0.9 > far
