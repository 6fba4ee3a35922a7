from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from offline.compare import thirteen
from offline.compare.found_versions import FoundVersions
from offline.compare.measured import Measured
from offline.compare.null_world import null_world
from offline.compare.settings import Settings


def test_a_row_that_is_another_by_the_weight_it_chose_is_no_evidence_about_its_family(
    settings_of: Callable[..., Settings],
    found_of: Callable[[Settings], FoundVersions],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, world = found_of(settings_of()), null_world(0)
    for name, log in (("e4srec", {"beta": 0.0}), ("e4srec-random", {"beta": 0.5}), ("llamarec", {"weight": 0.0})):
        metas = tuple(meta.model_copy(update={"log": log}) for meta in world[name].metas)
        world[name] = replace(world[name], metas=metas)
    asked: dict[str, Any] = {}
    monkeypatch.setattr(thirteen, "read_probe", lambda _found: ())
    monkeypatch.setattr(thirteen, "measure_all", lambda warm, *_, extras, **__: asked.update(warm=warm, extras=extras))
    headline = found.settings.headline
    thirteen.claims_of(Measured(world, {}, {}, {headline: found.split(headline)}), found, draws=10)
    assert "e4srec" not in asked["warm"]
    assert {"e4srec-random", "llamarec"} <= set(asked["warm"]), "claim 7 says itself what w = 0 is"
    assert asked["extras"].reranking.weight == 0
