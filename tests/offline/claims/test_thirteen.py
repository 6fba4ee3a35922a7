from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from offline.claims import Extras, measure_all, worlds
from offline.claims.twin_events import TwinEvents
from offline.splits.sequences import Split


def test_a_null_world_claims_next_to_nothing(long_interest: Split, sequel_twins: TwinEvents) -> None:
    """All families equal, inputs of all thirteen claims. A hundred worlds, with contrasts: `test_null_world`."""
    claiming, excluded = 0, 0
    for world in range(20):
        warm, extras = worlds.nothing_to_find(long_interest.test, sequel_twins, seed=world)
        found = measure_all(warm, long_interest.dataset, long_interest.test, extras=extras, draws=600, seed=world)
        assert [claim.verdict for claim in found].count("not measured") == 0
        claiming += any(claim.verdict in ("supported", "contradicted") for claim in found)
        excluded += sum(not claim.low <= 0 <= claim.high for claim in found)  # type: ignore[operator]
    assert claiming <= 3
    # Else the measurements would be silent whatever the world: 5 % of 260 intervals would be 13.
    assert 2 <= excluded <= 26


def test_nothing_given_is_thirteen_reasons(long_interest: Split) -> None:
    found = measure_all({}, long_interest.dataset, long_interest.test, draws=50)
    assert [claim.number for claim in found] == list(range(1, 14))
    assert {claim.verdict for claim in found} == {"not measured"}
    assert all(claim.sentence.startswith("Not measured: ") for claim in found)


def test_partial_inputs_give_partial_claims_that_json_takes(long_interest: Split) -> None:
    rng = np.random.default_rng(0)
    warm = worlds.equal_arms(("e4srec", "e4srec-random", "e4srec-sum", "e4srec-id"), long_interest.test.users, rng=rng)
    found = measure_all(warm, long_interest.dataset, long_interest.test, draws=200)
    measured = {claim.number: claim for claim in found if claim.verdict != "not measured"}
    assert set(measured) == {10, 13}
    assert measured[13].contrast.endswith("random weights, e4srec")
    json.loads(json.dumps([asdict(claim) for claim in found], allow_nan=False))


def test_arms_of_other_events_are_refused(long_interest: Split) -> None:
    queries = long_interest.test
    arms = worlds.equal_arms(("a", "b"), queries.users, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="not the queries"):
        measure_all(arms, long_interest.dataset, replace(queries, users=queries.users[::-1].copy()))
    arms["b"] = worlds.Ranked(arms["b"].ranks_SE[:, 1:], arms["b"].users_E[1:])
    with pytest.raises(ValueError, match="b: its events are not those of a"):
        measure_all(arms, long_interest.dataset, queries, extras=Extras())
    with pytest.raises(ValueError, match="weigh alike"):
        measure_all({}, long_interest.dataset, replace(queries, weights=np.ones(len(queries))))
