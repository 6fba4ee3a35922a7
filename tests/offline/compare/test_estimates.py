from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from offline.compare.arms import BY_NAME
from offline.compare.estimates import AROUND, Estimates
from offline.compare.scores import ScoreMeta, SeedScores
from offline.compare.settings import Settings


def test_known_costs_go_before_the_budget(settings_of: Callable[..., Settings]) -> None:
    settings = replace(settings_of(minutes=10.0), shared={})
    for seed, seconds in ((0, 120.0), (1, 240.0)):
        saved = ScoreMeta(
            arm="e4srec",
            family="e4srec",
            variant="-",
            protocol="last-10",
            seed=seed,
            fingerprint="-",
            dataset="-",
            dataset_fingerprint="-",
            split_fingerprint="-",
            seen_removed=True,
            depth=20,
            events=2,
            users=1,
            measured_at="-",
            score_seconds=30.0,
            train_seconds=seconds,
        )
        SeedScores(saved, np.array([1, 0], dtype=np.int32)).save(settings.report / "scores")
    estimates = Estimates.of(settings, events=45_000)
    assert estimates.train(BY_NAME["e4srec"], "last-10") == 3.0
    assert estimates.train(BY_NAME["e4srec"], "temporal") == 3.0, "another protocol"
    assert estimates.train(BY_NAME["e4srec-id"], "last-10") == 3.0, "another arm of the family"
    assert estimates.train(BY_NAME["contriever"], "last-10") == 1.9, "half of ML-100K's events, half of its minutes"
    assert estimates.train(BY_NAME["llamarec-verbalizer"], "last-10") == 10.0, "nothing is known"
    shorter = Estimates.of(replace(settings, minutes=0.5), events=45_000)
    assert shorter.train(BY_NAME["e4srec"], "last-10") == 0.5 + AROUND, "not what it took under a longer budget"
    assert estimates.train(BY_NAME["ease"], "last-10") == BY_NAME["ease"].train_minutes
    assert estimates.score(BY_NAME["e4srec"], "last-10") == pytest.approx(0.5)
    assert estimates.score(BY_NAME["contriever"], "temporal") == pytest.approx(BY_NAME["contriever"].score_minutes / 3)


def test_minutes_of_other_data_go_no_further_than_the_budget_and_what_they_were_measured_with(
    settings_of: Callable[..., Settings],
) -> None:
    arm, settings = BY_NAME["llm2vec"], replace(settings_of(minutes=10.0), shared={})
    assert Estimates.of(settings, events=90_000).train(arm, "last-10") == 7.0
    assert Estimates.of(settings, events=900_000).train(arm, "last-10") == 10.0
    larger = replace(settings, shared={"lm": {"keep_layers": 30}})
    assert Estimates.of(larger, events=90_000).train(arm, "last-10") == 10.0
