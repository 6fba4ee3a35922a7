from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from model_store.bundle import Bundle
from model_store.staging import BundleParts
from offline.datasets import Interactions
from offline.families.sasrec import Recipe
from offline.splits import split
from offline.training import FitPlan


def test_the_item_table_shows_in_the_golden_queries(
    small_world: Interactions, tmp_path: Path, open_bundle: Callable[[BundleParts], Bundle]
) -> None:
    recipe = Recipe(dim=8, max_history=16, fit=FitPlan(epochs=1, evaluate_every=1, batch=16))
    parts = recipe.train(split(small_world, "last-10").dataset, tmp_path, {}).parts
    assert list(parts.controls) == ["item table"]
    assert open_bundle(parts).manifest.warnings == []
    assert parts.item_vectors_ND.abs().min() > 0, "the control's copy is emptied, not what is served"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"dim": 50, "heads": 4}, "dim = 50"), ({"dropout": 1.0}, "dropout"), ({"dropout": -0.1}, "dropout")],
)
def test_what_cannot_be_built_is_refused_by_its_key(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Recipe.model_validate(wrong)
