from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.errors import BundleRefused
from model_store.manifest import Provenance
from model_store.ranker_files import GOLDEN, WEIGHTS
from model_store.ranker_golden import QUERIES, TOLERANCES, GoldenRanking
from model_store.rankers.verbalizer import VerbalizerRanker
from model_store.retrieval import Want
from model_store.staging import BundleParts
from model_store.store import ModelStore
from tests.model_store.signing import edit_manifest, sign
from tests.model_store.test_verification import refused

MakeVerbalizer = Callable[..., VerbalizerRanker]
FLOAT32 = TOLERANCES["float32"]


@pytest.fixture
def parts(tiny_parts: Callable[..., BundleParts], verbalizer: MakeVerbalizer) -> BundleParts:
    return replace(tiny_parts(), ranker=verbalizer())


@pytest.fixture
def folder(store: ModelStore, parts: BundleParts, provenance: Provenance) -> Path:
    return store.stage(parts, provenance=provenance).folder


def test_what_is_recorded(folder: Path, parts: BundleParts) -> None:
    golden = GoldenRanking.read(folder)
    assert golden.item_rows_QK.shape == golden.opinions_QK.shape == (QUERIES, 6)
    bundle = Bundle.load(folder)
    assert bundle.manifest.ranker_golden == FLOAT32
    top = bundle.index.search(bundle.encode(golden.histories).vectors_BD, [Want(6)] * QUERIES)
    assert [found.rows.tolist() for found in top] == golden.item_rows_QK.tolist()


def test_a_ranker_that_answers_otherwise_is_refused(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    for name in ("identifier_outputs", "token_inputs", "lm.layers.1.mlp.down_proj.weight"):
        changed = state | {name: torch.zeros_like(state[name])}
        save_file(changed, folder / WEIGHTS)
        sign(folder)
        with pytest.raises(BundleRefused, match="ranker/golden"):
            Bundle.load(folder)


def test_damage_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    state, golden = load_file(folder / WEIGHTS), load_file(folder / GOLDEN)
    state["token_inputs"][2, 3] = float("nan")
    save_file(state, folder / WEIGHTS)
    refused(folder, "ranker/weights.safetensors does not have the checksum|has .* bytes", tmp_path)
    sign(folder)
    refused(folder, "token_inputs is not finite", tmp_path)
    state["token_inputs"][2, 3] = 0.0
    save_file({name: tensor for name, tensor in state.items() if name != "identifier_inputs"}, folder / WEIGHTS)
    sign(folder)
    with pytest.raises(BundleRefused, match="identifier_inputs"):
        Bundle.load(folder)
    save_file({name: tensor for name, tensor in golden.items() if name != "opinions_QK"}, folder / GOLDEN)
    save_file(state, folder / WEIGHTS)
    sign(folder)
    with pytest.raises(BundleRefused, match="lacks a tensor"):
        Bundle.load(folder)


def test_a_ranker_at_odds_with_the_manifest(folder: Path, verbalizer: MakeVerbalizer, tmp_path: Path) -> None:
    manifest = Bundle.load(folder).manifest
    assert manifest.ranker is not None
    sign(folder, ranker=manifest.ranker.model_copy(update={"weight": 0.9}))
    refused(folder, "is not the ranker of", tmp_path)
    sign(folder, ranker=manifest.ranker, ranker_golden=None)
    refused(folder, "golden scores", tmp_path)
    sign(folder, ranker=None)
    refused(folder, "says nothing", tmp_path)
    sign(folder, ranker=manifest.ranker, ranker_golden=FLOAT32)
    edit_manifest(folder, ranker={"kind": "os.system"})
    refused(folder, "ranker", tmp_path)


def test_a_ranker_of_other_items_is_not_staged(
    store: ModelStore, parts: BundleParts, provenance: Provenance, verbalizer: MakeVerbalizer
) -> None:
    with pytest.raises(ValueError, match="41 items"):
        store.stage(replace(parts, ranker=verbalizer(items=41)), provenance=provenance)
    broken = verbalizer()
    broken.frame_inputs[0, 0] = float("inf")
    with pytest.raises(ValueError, match="ranker: frame_inputs"):
        store.stage(replace(parts, ranker=broken), provenance=provenance)


def test_the_negative_control(
    store: ModelStore, parts: BundleParts, provenance: Provenance, verbalizer: MakeVerbalizer
) -> None:
    blind = verbalizer()
    blind.token_inputs.zero_()
    controls = {"item text": blind.opinions, "luck": verbalizer().opinions}
    staged = store.stage(replace(parts, ranker_controls=controls), provenance=provenance)
    assert staged.manifest.warnings == ["The golden rankings do not notice when the luck is missing."]


def test_what_counts_as_the_same_scores() -> None:
    rows_QK = torch.tensor([[3, 1, 2], [4, 5, -1], [6, -1, -1]])
    golden = GoldenRanking(HistoryBatch.of([[1]] * 3), rows_QK, torch.tensor([[2.0, 1.0, 0.0], [1, 3, 0], [7, 0, 0]]))
    same = golden.opinions_QK + torch.tensor([[5.0], [-3.0], [1.0]])  # an offset changes no softmax
    assert golden.mismatch(same, tolerances=FLOAT32) is None
    for wrong in (golden.opinions_QK * 1.05, golden.opinions_QK.flip(1), same * np.nan):
        assert golden.mismatch(wrong, tolerances=FLOAT32) is not None
    assert "scores are" in str(golden.mismatch(same[:2], tolerances=FLOAT32))


def test_a_manifest_without_a_ranker_still_reads(bundle_folder: Path) -> None:
    fields = json.loads((bundle_folder / "manifest.json").read_text())
    older = {name: value for name, value in fields.items() if not name.startswith("ranker")}
    (bundle_folder / "manifest.json").write_text(json.dumps(older))
    content = (bundle_folder / "manifest.json").read_bytes()
    (bundle_folder / "manifest.sha256").write_text(hashlib.sha256(content).hexdigest())
    assert Bundle.load(bundle_folder).ranker is None
