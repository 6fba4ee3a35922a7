"""What families are trained on in their tests, and the SASRec that some start from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.bundle import Bundle
from model_store.staging import BundleParts
from offline.datasets import Interactions
from offline.families import sasrec
from offline.splits.protocols import split
from offline.splits.sequences import SequenceDataset
from offline.training.loop import FitPlan

OpenBundle = Callable[[BundleParts], Bundle]


@pytest.fixture
def dataset(small_world: Interactions) -> SequenceDataset:
    return split(small_world, "last-10").dataset


@pytest.fixture
def start(dataset: SequenceDataset, tmp_path: Path, open_bundle: OpenBundle) -> Bundle:
    recipe = sasrec.Recipe(dim=8, max_history=16, fit=FitPlan(epochs=3, evaluate_every=1, batch=16))
    return open_bundle(recipe.train(dataset, tmp_path / "sasrec", {}).parts)
