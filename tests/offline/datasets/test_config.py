from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from offline.datasets import DataConfig, DataRefused, load
from offline.datasets.config import BUILT_IN, Ml100kConfig, TablesConfig

SECTION: TypeAdapter[DataConfig] = TypeAdapter(DataConfig)


def test_kind_tells_the_sections_apart() -> None:
    assert SECTION.validate_python({"kind": "ml-100k"}) == Ml100kConfig()
    section = {"kind": "tables", "name": "mine", "interactions": "a.csv", "columns": {"user": "who"}}
    assert isinstance(SECTION.validate_python(section), TablesConfig)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"kind": "ml-100k", "min_ratings": 3}, "min_ratings"),
        ({"kind": "tables", "name": "mine"}, "interactions"),
        ({"kind": "tables", "name": "mine", "interactions": "a", "columns": {"users": "u"}}, "users"),
        ({"kind": "ml-100k", "repeat": "last"}, "repeat"),
        ({"kind": "ml-100k", "k_core": -1}, "k_core"),
        ({"kind": "sql"}, "sql"),
    ],
)
def test_wrong_keys_are_named(section: dict[str, object], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        SECTION.validate_python(section)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(DataRefused, match="ml-100k, amazon-beauty"):
        load("netflix")


def test_built_in_sections_survive_a_round_trip() -> None:
    for section in BUILT_IN.values():
        assert SECTION.validate_python(section.model_dump()) == section
