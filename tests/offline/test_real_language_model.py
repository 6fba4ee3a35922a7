"""One test with the real SmolLM2 on real films: little of both, and every step between training and an answer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.base_models import open_base
from model_store.bundle import Bundle
from model_store.encoders.language_model import LanguageModelEncoder
from model_store.errors import BaseModelRefused
from model_store.manifest import Provenance
from model_store.preparing import prepare
from model_store.retrieval import Want
from model_store.staging import BundleParts
from model_store.store import ModelStore
from offline.datasets import Interactions
from offline.families import e4srec, sasrec
from offline.splits.protocols import split
from offline.splits.sequences import Split
from offline.training.loop import FitPlan

USERS = 30
PROVENANCE = Provenance(
    run="test", recipe={}, seed=0, dataset="ml-100k", dataset_fingerprint="-", split_fingerprint="-",
    protocol="last-10", packages={}, train_seconds=0.0,
)  # fmt: skip


@pytest.fixture
def films(ml_100k: Interactions) -> Split:
    """The first users of ML-100K, with the whole catalogue."""
    kept = ml_100k.users < USERS
    return split(
        dataclasses.replace(
            ml_100k,
            fingerprint=f"first {USERS} users of {ml_100k.fingerprint}",
            user_ids=ml_100k.user_ids[:USERS],
            users=ml_100k.users[kept],
            item_rows=ml_100k.item_rows[kept],
            times_ms=ml_100k.times_ms[kept],
        ),
        "last-10",
    )


@pytest.fixture
def smollm2() -> str:
    try:
        open_base("smollm2-135m", keep_layers=1, dtype=torch.float32)
    except BaseModelRefused as refused:
        pytest.skip(f"SmolLM2 CANNOT BE HAD HERE, so nothing was trained on a real model: {refused}")
    return "smollm2-135m"


def _published(parts: BundleParts, store: ModelStore) -> str:
    return store.publish(store.stage(parts, provenance=PROVENANCE))


@pytest.mark.slow
def test_smollm2_from_training_to_an_answer(films: Split, smollm2: str, tmp_path: Path) -> None:
    store, plan = ModelStore(tmp_path / "store"), FitPlan(epochs=1, evaluate_every=1, batch=8)
    start = sasrec.Recipe(dim=16, max_history=50, fit=plan)
    parent = store.open(_published(start.train(films.dataset, tmp_path / "sasrec", {}).parts, store))
    recipe = e4srec.Recipe.model_validate(
        {
            "items_from": parent.version,
            "history_input": "id",
            "max_history": 20,
            "lm": {"base": smollm2, "keep_layers": 1},
            "fit": plan.model_dump() | {"learning_rate": 1e-3, "clip": 1.0},
        }
    )
    trained = recipe.train(films.dataset, tmp_path / "run", {"items_from": parent})
    encoder = trained.parts.encoder
    assert isinstance(encoder, LanguageModelEncoder)
    assert encoder.lm.dtype == torch.bfloat16
    version = _published(trained.parts, store)
    manifest = store.manifest(version)
    assert manifest.warnings == [], "every part must show in the golden queries, the small adapter too"
    assert sum(record.bytes for record in manifest.files.values()) < 30e6, "one layer, and no token table"

    bundle = Bundle.open(prepare(store.folder(version), tmp_path / "prepared"))
    queries = films.test
    histories = queries.histories.select(range(0, len(queries), 30))
    wants = [Want(10, excluded_rows=np.unique(histories.history(b).numpy()).astype(np.int64)) for b in range(10)]
    found = bundle.retrieve(histories, wants)
    encoder.compute_in(torch.float32)
    with torch.inference_mode():
        cut = histories.windowed(encoder.max_history, encoder.jump)
        scores_BN = (encoder(cut).double() @ trained.parts.item_vectors_ND.double().T).numpy()
    # bfloat16 rounds to 2^-9 where the machine computes in it.
    close = 0.02 * float(np.abs(scores_BN).max())
    for candidates, want, scores_N in zip(found, wants, scores_BN, strict=True):
        assert len(candidates.rows) == 10
        assert not set(candidates.rows.tolist()) & set(want.excluded_rows.tolist())
        np.testing.assert_allclose(candidates.scores, scores_N[candidates.rows], rtol=0.02, atol=close)
        scores_N[want.excluded_rows] = -np.inf
        np.testing.assert_allclose(candidates.scores, np.sort(scores_N)[::-1][:10], rtol=0.02, atol=close)
