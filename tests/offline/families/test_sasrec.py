from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.retrieval import Want
from model_store.staging import BundleParts
from offline.datasets import Interactions
from offline.families import ease
from offline.families.sasrec import Recipe
from offline.splits.protocols import split
from offline.training.loop import FitPlan


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
    [
        ({"negatives": 5}, r'negatives = 5.*softmax = "full"'),
        ({"softmax": "sampled", "teacher": "v"}, r'softmax = "sampled".*teacher'),
        ({"distillation": 0.3}, r"distillation = 0\.3.*teacher"),
        ({"dim": 50, "heads": 4}, "dim = 50"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
    ],
)
def test_what_cannot_be_built_is_refused_by_its_key(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Recipe.model_validate(wrong)


def test_a_student_ranks_more_like_its_teacher(
    small_world: Interactions, tmp_path: Path, open_bundle: Callable[[BundleParts], Bundle]
) -> None:
    """The teacher (EASE) gives one vector per history: it teaches at the windows' ends."""
    data = split(small_world, "last-10")
    teacher = open_bundle(ease.Recipe(lam=5).train(data.dataset, tmp_path, {}).parts)
    plan = FitPlan(epochs=15, evaluate_every=5, batch=16, learning_rate=1e-2)
    alone = Recipe(dim=16, max_history=16, fit=plan)
    taught = alone.model_copy(update={"teacher": "v", "distillation": 30.0})
    histories = data.test.histories.select(range(0, 300, 3))
    lists = [_top5(teacher, histories)]
    for recipe, parents in ((alone, {}), (taught, {"teacher": teacher})):
        parts = recipe.train(data.dataset, tmp_path / str(recipe.teacher), parents).parts
        lists.append(_top5(open_bundle(parts), histories))
    assert len(lists[0] & lists[2]) > 1.1 * len(lists[0] & lists[1])


def _top5(bundle: Bundle, histories: HistoryBatch) -> set[tuple[int, int]]:
    wants = [Want(k=5, excluded_rows=np.unique(histories.history(q).numpy())) for q in range(len(histories))]
    return {(q, row) for q, found in enumerate(bundle.retrieve(histories, wants)) for row in found.rows.tolist()}
