"""The probe on real, tiny trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offline import families
from offline.claims.probe import WatchedPlan, run_probe, withhold
from offline.claims.probe_looks import Looks, reciprocal_ranks
from offline.claims.probe_runs import read_runs
from offline.claims.training_ease import RATES, training_ease
from offline.datasets import Interactions
from offline.evaluation.validation import Validation
from offline.recipe import Recipe

FIT = {"epochs": 4, "evaluate_every": 1, "batch": 8, "learning_rate": 1e-2}


def _sasrec(**fit: Any) -> Recipe:
    section = {"dim": 8, "max_history": 16, "fit": FIT | fit}
    return families.recipe_class("sasrec").model_validate(section)


def _language_model(family: str, tiny_base: Path, **more: Any) -> Recipe:
    lm = {"base": str(tiny_base), "keep_layers": 2, "served_dtype": "float32", "rank": 4}
    section = {"max_history": 16, "prompt": "a b", "fit": FIT, "lm": lm} | more
    return families.recipe_class(family).model_validate(section)


def test_a_tenth_of_the_users_is_in_nothing_that_is_fitted(small_world: Interactions) -> None:
    data = withhold(small_world)
    withheld = np.unique(data.queries.users)
    assert len(withheld) == 6
    assert len(data.dataset.train) == 54
    sequences = small_world.sequences()
    assert len(data.queries) == sum(len(sequences[user]) - 1 for user in withheld)
    kept = [sequences[user] for user in range(60) if user not in withheld]
    fitted = np.bincount(np.concatenate([s[:-11] if len(s) >= 12 else s for s in kept]), minlength=40)
    np.testing.assert_array_equal(data.dataset.catalog.popularity, fitted)
    for user, sequence in enumerate(kept):
        trained = data.dataset.train.history(user).numpy()
        np.testing.assert_array_equal(trained, sequence[: len(trained)])
    again = withhold(small_world)
    np.testing.assert_array_equal(again.queries.targets, data.queries.targets)


def test_a_few_events_of_each_withheld_user_are_spread_over_all(small_world: Interactions) -> None:
    whole, some = withhold(small_world).queries, withhold(small_world, events=5).queries
    sequences = small_world.sequences()
    for user in np.unique(whole.users):
        lengths = some.histories.lengths[torch.from_numpy(some.users == user)].tolist()
        assert len(lengths) == len(set(lengths)) == 5
        assert (lengths[0], lengths[-1]) == (1, len(sequences[user]) - 1)
        assert max(np.diff(lengths)) - min(np.diff(lengths)) <= 1
        targets = some.targets[some.users == user]
        np.testing.assert_array_equal(targets, [sequences[user][length] for length in lengths])


def test_reciprocal_ranks_are_those_of_full_ranking(small_world: Interactions, tmp_path: Path) -> None:
    data = withhold(small_world)
    parts = _sasrec().train(data.dataset, tmp_path, {}).parts
    found = reciprocal_ranks(parts.encoder, parts.item_vectors_ND, queries=data.queries, exclude_seen=False)
    ranks = np.round(1 / found)
    assert ranks.min() >= 1
    gains = np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0)
    expected = Validation(data.queries, exclude_seen=False).ndcg10(parts.encoder, parts.item_vectors_ND)
    assert gains.mean() == pytest.approx(expected, abs=1e-6)
    unseen = reciprocal_ranks(parts.encoder, parts.item_vectors_ND, queries=data.queries, exclude_seen=True)
    repeats = [data.queries.targets[q] in data.queries.histories.history(q) for q in range(len(data.queries))]
    np.testing.assert_array_equal(unseen == 0, repeats)


def test_looking_changes_nothing_and_comes_at_the_step_that_reaches_the_target(
    small_world: Interactions, tmp_path: Path, tiny_base: Path
) -> None:
    """Same seed, same weights, with and without looks; dropout is on, so a look that draws numbers would show."""
    data = withhold(small_world)
    recipe = _language_model("contriever", tiny_base, dim=8)
    plan = {"evaluate_every": 4, "patience": 4, "average": 1}
    plain = recipe.model_copy(update={"fit": recipe.fit.model_copy(update=plan)})  # type: ignore[attr-defined]
    looks = Looks([1, 2, 300, 600], data.queries, exclude_seen=True)
    watched = recipe.model_copy(update={"fit": WatchedPlan.of(recipe.fit, looks)})  # type: ignore[attr-defined]
    first, second = (
        each.train(data.dataset, tmp_path / name, {}) for name, each in (("plain", plain), ("watched", watched))
    )
    assert torch.equal(first.parts.item_vectors_ND, second.parts.item_vectors_ND)
    for name, tensor in first.parts.encoder.state_dict().items():
        assert torch.equal(tensor, second.parts.encoder.state_dict()[name]), name
    run = looks.record("contriever", learning_rate=None, seed=0, diverged=False)
    assert run.mrr[0] == run.mrr[1], "one step reached both"
    assert run.mrr[-1] > run.mrr[0]
    assert len(run.losses) == 4 * 7
    assert run.cpu_seconds == sorted(run.cpu_seconds)
    assert sum(events for events, _, _ in run.users) == len(data.queries)
    assert sum(last for _, _, last in run.users) / len(data.queries) == pytest.approx(run.mrr[-1], abs=1e-4)


def test_every_arm_rate_and_seed_is_run_once(small_world: Interactions, tmp_path: Path) -> None:
    """The arm is a SASRec too, which is quick."""
    how: dict[str, Any] = {"sasrec": _sasrec(), "folder": tmp_path, "epochs": 2, "points": 5}
    how |= {"rates": (1e-3, 1e-2), "seeds": (0, 1)}
    runs = run_probe(small_world, {"e4srec": _sasrec()}, **how)
    found = sorted((run.learning_rate, run.seed) for run in runs if run.arm == "e4srec")
    assert found == [(1e-3, 0), (1e-3, 1), (1e-2, 0), (1e-2, 1)]
    assert sorted(run.seed for run in runs if run.arm == "sasrec") == [0, 1]
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").iterdir()}
    (tmp_path / "runs" / "e4srec-0.01-0.json").unlink()
    again = run_probe(small_world, {"e4srec": _sasrec()}, **how)
    after = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").iterdir()}
    assert {file.name for file in after if before[file] != after[file]} == {"e4srec-0.01-0.json"}
    assert [run.mrr for run in again] == [run.mrr for run in runs], "same seed, same curve"
    assert read_runs(tmp_path / "runs") == again


def test_the_arms_of_the_claims_can_be_probed(small_world: Interactions, tmp_path: Path, tiny_base: Path) -> None:
    start = {"items_from": "run:whatever"}
    arms = {
        "e4srec-sum": _language_model("e4srec", tiny_base, **start),
        "contriever": _language_model("contriever", tiny_base, dim=8),
        "ilora-sasrec": _language_model("ilora", tiny_base, **start),
        "ilora": _language_model("ilora", tiny_base, space="common", dim=8, **start),
    }
    runs = run_probe(
        small_world, arms, sasrec=_sasrec(), folder=tmp_path, epochs=2, points=5, rates=(1e-2,), seeds=(0,)
    )
    assert sorted(run.arm for run in runs) == sorted([*arms, "sasrec"])
    assert len({tuple(run.targets) for run in runs if run.arm != "sasrec"}) == 1, "as many targets for each"
    assert all(max(run.mrr) > 0 for run in runs)
    as_if_at_all = [
        run if run.learning_rate is None else run.model_copy(update={"learning_rate": rate})
        for run in runs
        for rate in RATES
    ]
    measured = {finding.number: finding for finding in training_ease(as_if_at_all, draws=200, seed=0)}
    assert all(measured[number].estimate is not None for number in (1, 2, 11))


def test_a_training_that_diverges_is_a_result(small_world: Interactions, tmp_path: Path) -> None:
    arms = {"ilora-sasrec": _sasrec()}
    runs = run_probe(
        small_world, arms, sasrec=_sasrec(), folder=tmp_path, epochs=2, points=4, rates=(1e30,), seeds=(0,)
    )
    (run,) = (run for run in runs if run.arm != "sasrec")
    assert run.diverged
    assert run.mrr[-1] == 0.0


def test_what_cannot_be_looked_at_says_so(small_world: Interactions) -> None:
    looks = Looks([1], withhold(small_world).queries, exclude_seen=True)
    with pytest.raises(TypeError, match=r"Identity has no `encoder` and `refresh\(\)`"):
        looks.after_step(torch.nn.Identity(), targets=1, loss=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ended before 1 targets"):
        looks.record("x", learning_rate=None, seed=0, diverged=False)
