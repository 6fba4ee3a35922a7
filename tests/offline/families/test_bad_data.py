"""Data as people have them: every family trains on them, or refuses before it trains, with the reason and the cure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from model_store.bundle import Bundle
from model_store.manifest import Provenance
from model_store.retrieval import Want
from model_store.store import ModelStore
from offline import families
from offline.data_needs import check_data
from offline.datasets import DataRefused, Interactions
from offline.datasets.assembly import assemble
from offline.datasets.config import TablesConfig
from offline.evaluation.full_ranking import evaluate, summarise
from offline.finishing.finish import finished
from offline.recipe import Recipe
from offline.splits.protocols import Protocol, split
from offline.splits.sequences import Split

FIT = {"epochs": 1, "evaluate_every": 1, "batch": 16, "learning_rate": 3e-3}
SASREC = {"dim": 8, "max_history": 8, "blocks": 1, "heads": 1, "fit": FIT}
STAGE = {"tokens": 400, "check_tokens": 400, "batch": 4}
# Family -> what reads most of the data. `llamarec` asks for more candidates than small catalogues have.
READING: dict[str, dict[str, Any]] = {
    "ease": {"popularity_debiasing": True},
    "sasrec": SASREC | {"cold_start": "regression"},
    "fused": {"parts": ["v", "w"]},
    "e4srec": {"items_from": "v", "history_input": "tokens+id", "item_tower": "id+text", "teacher": "v"},
    "ilora": {"items_from": "v", "experts": 2},
    "contriever": {"dim": 8, "history_input": "tokens", "item_training": "in_batch", "chunk": 3},
    "llamarec": {"retriever": "v", "folds": 2, "targets_per_user": 1, "lm": {"keep_layers": 3}},
    "llm2vec": {"dim": 8, "history_input": "tokens", "item_training": "cached", "refresh": 3},
}


def test_every_family_is_covered() -> None:
    assert sorted(READING) == families.names()


def world(
    *,
    users: int = 6,
    items: int = 30,
    unchosen: int = 0,
    passers_by: int = 0,
    title: Callable[[int], str | None] = lambda row: f"Item {row}",
    described: bool = True,
    at_once: bool = False,
) -> Interactions:
    """Walks through the items, 13 to 15 events each; passers-by chose one item. described: categories and years."""
    rng = np.random.default_rng(0)
    events = []
    for user in range(users):
        place = int(rng.integers(items))
        for _ in range(int(rng.integers(13, 16))):
            events.append((f"u{user}", f"i{place}"))
            place = int((place + rng.integers(1, 4)) % items)
    events += [(f"once-{user}", f"i{user % items}") for user in range(passers_by)]
    frame = pl.DataFrame(events, schema=["user_id", "item_id"], orient="row").with_columns(
        time_ms=pl.lit(7, dtype=pl.Int64) if at_once else pl.int_range(len(events)), rating=pl.lit(None, pl.Float64)
    )
    rows = range(items + unchosen)
    table = pl.DataFrame(
        {
            "item_id": [f"i{row}" for row in rows],
            "title": pl.Series([title(row) for row in rows], dtype=pl.String),
            "text": pl.Series([None for _ in rows], dtype=pl.String),
            "categories": pl.Series([[f"c{row % 3}"] if described else [] for row in rows], dtype=pl.List(pl.String)),
            "year": pl.Series([2000 + row % 5 if described else None for row in rows], dtype=pl.Int64),
        }
    )
    return assemble(frame, table, TablesConfig(name="bad", interactions="-"), file="-")


def nameless(_row: int) -> None:
    return None


WORLDS: dict[str, Callable[[], Interactions]] = {
    "no titles": lambda: world(title=nameless),
    "few titles": lambda: world(title=lambda row: None if row % 2 else f"Item {row}", described=False),
    "one user": lambda: world(users=1),
    "items nobody chose, users of one event": lambda: world(unchosen=12, passers_by=5),
    "equal texts": lambda: world(title=lambda row: "Item 1" if row % 3 else f"Item {row}", described=False),
    "four items, equal times": lambda: world(items=4, at_once=True),
}
# Where a family has a reason to refuse: what its message must hold.
REFUSED = {
    ("no titles", "llamarec"): ['item_text = "{title}"', "item_columns"],
    ("one user", "llamarec"): ["folds", 'ranker = "pointwise"'],
}


@pytest.fixture(scope="module")
def worlds() -> Callable[[str], Split]:
    return cache(lambda name: split(WORLDS[name](), "last-10"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """Trained, finished and staged; no weight, score or figure that is no number."""

    def make(recipe: Recipe, data: Split, parents: Mapping[str, Bundle]) -> Bundle:
        folder = tmp_path_factory.mktemp("bad")
        check_data(recipe, data.dataset)
        trained = recipe.train(data.dataset, folder / "run", {r: parents[r] for r in recipe.parent_references()})
        trained = finished(trained, recipe, data.dataset)
        assert _is_finite(trained.log)
        floats = [t for t in trained.parts.encoder.state_dict().values() if t.is_floating_point()]
        assert all(torch.isfinite(t).all() for t in [*floats, trained.parts.item_vectors_ND])
        provenance = Provenance(
            run="bad", recipe=recipe.model_dump(mode="json"), seed=0, dataset="-", dataset_fingerprint="-",
            split_fingerprint="-", protocol="last-10", packages={}, train_seconds=0,
        )  # fmt: skip
        return Bundle.load(ModelStore(folder / "store").stage(trained.parts, provenance=provenance).folder)

    return make


@pytest.fixture(scope="module")
def parents(worlds: Callable[[str], Split], made: Callable[..., Bundle]) -> Callable[[str], dict[str, Bundle]]:
    @cache
    def trained(name: str) -> dict[str, Bundle]:
        sasrec, ease = families.recipe_class("sasrec"), families.recipe_class("ease")
        first = made(sasrec.model_validate(SASREC), worlds(name), {})
        other = made(ease.model_validate({"lam": 5}), worlds(name), {})
        return {"parts[0]": first, "parts[1]": other} | dict.fromkeys(("items_from", "retriever", "teacher"), first)

    return trained


def _is_finite(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _recipe(family: str, tiny_base: Path, **changes: Any) -> Recipe:
    section: dict[str, Any] = READING[family] | changes
    if family in ("e4srec", "ilora", "contriever", "llamarec", "llm2vec"):
        lm = {"base": str(tiny_base), "keep_layers": 2, "rank": 4, "served_dtype": "float32"} | section.get("lm", {})
        section = {"max_history": 8, "prompt": "a b", "fit": FIT} | section | {"lm": lm}
    return families.recipe_class(family).model_validate(section)


def _answers(bundle: Bundle, data: Split) -> None:
    """To every query, k above the catalogue included: numbers alone, and nothing that was seen."""
    queries = data.dataset.validation
    wants = [Want(1000, excluded_rows=np.unique(queries.histories.history(q).numpy())) for q in range(len(queries))]
    for want, found in zip(wants, bundle.retrieve(queries.histories, wants), strict=True):
        assert np.isfinite(found.scores).all()
        assert len(found.rows) == len(bundle.catalog) - len(want.excluded_rows)
    assert _is_finite([m.model_dump() for m in _figures(bundle, data)])
    assert all(bundle.catalog.titles(range(len(bundle.catalog))))


def _figures(bundle: Bundle, data: Split) -> Any:
    return summarise(
        evaluate(bundle, data.dataset.validation, seen_removed=True), dataset=data.dataset, subset="validation"
    )


@pytest.mark.parametrize("family", sorted(READING))
@pytest.mark.parametrize("name", WORLDS)
def test_what_makes_sense_is_trained(
    name: str,
    family: str,
    *,
    worlds: Callable[[str], Split],
    parents: Callable[[str], dict[str, Bundle]],
    made: Callable[..., Bundle],
    tiny_base: Path,
) -> None:
    recipe = _recipe(family, tiny_base)
    if (name, family) in REFUSED:
        with pytest.raises(ValueError, match=r"set|Cure") as refused:
            made(recipe, worlds(name), parents(name))
        assert type(refused.value) in (ValueError, DataRefused)
        assert all(part in str(refused.value) for part in REFUSED[name, family])
        return
    _answers(made(recipe, worlds(name), parents(name)), worlds(name))


@pytest.fixture(scope="module")
def wordless() -> Split:
    return split(world(title=nameless, described=False), "last-10")


def test_without_a_title_the_id_is_shown(wordless: Split) -> None:
    assert wordless.dataset.catalog.titles([3]) == ["i3"]


@pytest.mark.parametrize("family", sorted(READING))
def test_who_reads_texts_refuses_data_without_any(family: str, wordless: Split, tiny_base: Path) -> None:
    recipe = _recipe(family, tiny_base)
    if family in ("ease", "fused"):
        check_data(recipe, wordless.dataset)
        return
    with pytest.raises(DataRefused, match=r"item_text.* finds none.*Cure: .*item_columns"):
        check_data(recipe, wordless.dataset)


def test_who_knows_items_by_id_needs_no_text(wordless: Split, made: Callable[..., Bundle], tiny_base: Path) -> None:
    sasrec = made(families.recipe_class("sasrec").model_validate(SASREC), wordless, {})
    by_id = _recipe("e4srec", tiny_base, history_input="id", item_tower="id")
    vectors = made(by_id, wordless, {"items_from": sasrec, "teacher": sasrec})
    _answers(vectors, wordless)
    section = {"ranker": "pointwise", "retriever": "v", "vectors_from": "w", "window": 50}
    ranked = families.recipe_class("llamarec").model_validate(section)
    _answers(made(ranked, wordless, {"retriever": sasrec, "vectors_from": vectors}), wordless)


@pytest.mark.parametrize("family", sorted(READING))
def test_a_catalogue_of_one_item_leaves_nothing_to_choose(family: str, tiny_base: Path) -> None:
    with pytest.raises(DataRefused, match=r"1 item, .*nothing to choose between\. Cure: "):
        check_data(_recipe(family, tiny_base), split(world(items=1), "last-10").dataset)


@pytest.mark.parametrize("protocol", ["last-10", "cold-items-0", "temporal"])
def test_data_too_small_for_a_protocol_are_refused_by_its_name(protocol: Protocol) -> None:
    short = world(users=0, passers_by=3, items=4, at_once=True)
    with pytest.raises(DataRefused, match=r"protocol = .*Cure: "):
        split(short, protocol)


def test_stages_on_text_and_folds_of_users_need_users(
    worlds: Callable[[str], Split],
    parents: Callable[[str], dict[str, Bundle]],
    made: Callable[..., Bundle],
    tiny_base: Path,
) -> None:
    cases: list[tuple[str, dict[str, Any], list[str]]] = [
        ("llm2vec", {"simcse": STAGE}, ["two users", "simcse"]),
        ("ilora", {"out_of_fold": True}, ["out_of_fold = true", "set out_of_fold = false"]),
    ]
    for family, changes, keys in cases:
        with pytest.raises(ValueError, match="users") as refused:
            made(_recipe(family, tiny_base, **changes), worlds("one user"), parents("one user"))
        assert all(key in str(refused.value) for key in keys)
