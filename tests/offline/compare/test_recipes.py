from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from offline.compare.arm import Arm
from offline.compare.arms import ARMS, BY_NAME
from offline.compare.recipes import fingerprint, refusal, run_config, same_recipe
from offline.compare.settings import Settings
from offline.compare.starting_values import STARTS, start_of
from offline.families import names

SettingsOf = Callable[..., Settings]


def _config(arm: str, settings: Settings, **more: Any) -> Any:
    parents = {"sasrec": "a-version"}
    return run_config(BY_NAME[arm], settings, protocol="last-10", seed=3, parents=parents, **more)


def test_later_ones_win_and_every_family_has_the_budget(settings_of: SettingsOf) -> None:
    settings = settings_of(minutes=4.0)
    e4srec = _config("e4srec", settings).recipe
    assert (e4srec.items_from, e4srec.seed, e4srec.fit.minutes) == ("a-version", 3, 4.0)
    assert (e4srec.residual, e4srec.branch_drop) == (True, 1.0), "where the family starts"
    assert (e4srec.max_history, e4srec.fit.epochs, e4srec.lm.rank) == (8, 3, 4), "what the run file says"
    assert _config("e4srec-random", settings).recipe.lm.random_init
    alone = _config("e4srec-sum", settings).recipe
    assert (alone.residual, alone.train_items, "branch_drop" in alone.model_fields_set) == (False, True, False)
    assert _config("sasrec", settings).recipe.fit.minutes == 4.0
    assert _config("ease", settings).recipe.tau is None


def test_what_trials_chose_goes_for_all_arms_of_the_family_but_never_undoes_one(settings_of: SettingsOf) -> None:
    tuned = {"lam": 500.0, "tau": 4.0}
    assert _config("ease-recency", settings_of(), tuned=tuned).recipe.tau == 4.0
    plain = _config("ease", settings_of(), tuned=tuned).recipe
    assert (plain.lam, plain.tau) == (500.0, None)


def test_what_cannot_be_trained_says_why(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of()
    for arm in ("popularity", "sasrec", "ease", "e4srec", "e4srec-random", "contriever"):
        assert refusal(BY_NAME[arm], settings) is None
    monkeypatch.setattr("offline.families.names", lambda: [name for name in names() if name != "e4srec"])
    assert "there is no family 'e4srec'" in str(refusal(BY_NAME["e4srec"], settings))


def test_only_films_are_called_films() -> None:
    assert start_of("e4srec", "ml-100k")["prompt"].startswith("Films")
    for family in STARTS:
        start = start_of(family, "amazon-beauty")
        assert "film" not in str(start).lower()
        assert start_of(family, "ml-100k") == start | {k: v for k, v in STARTS[family].items() if k == "prompt"}


def test_a_fingerprint_is_of_what_is_trained(settings_of: SettingsOf) -> None:
    settings = settings_of()
    none: dict[str, dict[str, Any]] = {"sasrec": {}, "e4srec": {}, "ease": {}}

    def of(arm: str, *, seed: int = 0, of: Settings = settings, tuned: Any = none) -> str:
        return fingerprint(BY_NAME[arm], of, seed=seed, tuned=tuned)

    available = [arm.name for arm in ARMS if refusal(arm, settings) is None]
    assert len({of(arm) for arm in available}) == len(available)
    assert of("e4srec") != of("e4srec", seed=1)
    assert of("ease") == of("ease", seed=1), "nothing is drawn"
    assert of("e4srec") == of("e4srec", of=settings_of(minutes=7.0)), "the budget is kept beside it"
    assert of("e4srec") != of("e4srec", tuned=none | {"sasrec": {"dropout": 0.5}}), "its parent is another"
    assert of("e4srec-sum") != of("e4srec-sum", tuned=none | {"e4srec": {"dropout": 0.5}})


def test_a_version_of_before_an_option_existed_is_still_the_same(settings_of: SettingsOf) -> None:
    recipe = _config("e4srec", settings_of()).recipe
    recorded = recipe.model_dump(mode="json")
    assert same_recipe(recorded, recipe)
    older = {key: value for key, value in recorded.items() if key != "max_text_tokens"}
    assert same_recipe(older, recipe), "it is at its default"
    assert not same_recipe({k: v for k, v in recorded.items() if k != "prompt"}, recipe), "ours is not the default"
    assert not same_recipe(recorded | {"dropout": 0.9}, recipe)
    assert not same_recipe(recorded | {"lm": recorded["lm"] | {"rank": 5}}, recipe)
    assert not same_recipe(recorded | {"unknown": 1}, recipe)
    assert same_recipe(recorded | {"fit": recorded["fit"] | {"minutes": None}}, recipe), "the budget is judged apart"
    assert same_recipe(recorded | {"items_from": "run:x"}, recipe, without=("items_from",))


def test_a_residual_stands_beside_a_plain_sequence_encoder(settings_of: SettingsOf) -> None:
    """New items by regression append a coordinate to every vector: such a version is no `items_from` of a residual."""

    def recipe_of(arm: Arm) -> Any:
        parents = dict.fromkeys(arm.parent_arms(), "a-version")
        return run_config(arm, settings_of(), protocol="last-10", seed=0, parents=parents).recipe

    reading = [arm for arm in ARMS if "items_from" in arm.parents and refusal(arm, settings_of()) is None]
    beside = [arm for arm in reading if getattr(recipe_of(arm), "residual", False)]
    assert {"e4srec", "e4srec-regression"} <= {arm.name for arm in beside}
    for arm in beside:
        assert recipe_of(BY_NAME[str(arm.parents["items_from"])]).cold_start == "none", arm.name
