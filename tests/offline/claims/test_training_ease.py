from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from offline.claims.claim import Finding
from offline.claims.probe_runs import ProbeRun
from offline.claims.training_ease import loss_spikes, training_ease
from offline.claims.worlds import equal_probes

ARMS = ("ilora-sasrec", "ilora", "contriever", "e4srec-sum")


def _measured(runs: tuple[ProbeRun, ...]) -> dict[int, Finding]:
    return {finding.number: finding for finding in training_ease(runs, draws=1_000, seed=0)}


def _slower(run: ProbeRun, factor: float) -> ProbeRun:
    users = [(events, factor * mean, last) for events, mean, last in run.users]
    return run.model_copy(update={"users": users, "mrr": [run.mrr[0] * (2 * factor - 1), run.mrr[1]]})


def test_a_family_that_learns_more_slowly_has_the_smaller_aulc() -> None:
    runs = equal_probes(ARMS, rng=np.random.default_rng(0))
    planted = tuple(_slower(run, 0.6) if run.arm == "ilora-sasrec" else run for run in runs)
    found = _measured(planted)
    for number in (1, 2, 11):
        estimate = found[number].estimate
        assert estimate is not None
        assert estimate.low > 0
        assert estimate.value == pytest.approx(0.4, abs=0.15), "in units of SASRec's final MRR"
        assert found[number].seeds == found[number].least_seeds == 3
    rows: Any = found[2].details["arms"]
    by_arm = {row["arm"]: row for row in rows}
    assert by_arm["ilora-sasrec"]["aulc"] == pytest.approx(0.6, abs=0.1)
    assert by_arm["contriever"]["share_within_5_percent_of_best"] > 0.5
    assert len(by_arm["contriever"]["curves"]) == 3


def test_families_of_equal_ease_are_not_told_apart() -> None:
    excluded = 0
    for world in range(20):
        for finding in _measured(equal_probes(ARMS, rng=np.random.default_rng(world))).values():
            assert finding.estimate is not None
            excluded += not finding.estimate.low <= 0 <= finding.estimate.high
    assert excluded <= 9


def test_time_to_sasrec_counts_the_runs_that_get_there() -> None:
    runs = equal_probes(("contriever",), rng=np.random.default_rng(0))
    high, low, never = (run for run in runs if run.arm == "contriever" and run.seed == 0)
    never = never.model_copy(update={"mrr": [0.0, 0.0]})
    high = high.model_copy(update={"mrr": [0.0, 9.0], "cpu_seconds": [1.0, 7.0]})
    low = low.model_copy(update={"mrr": [0.0, 0.0]})
    sasrec = tuple(run for run in runs if run.arm == "sasrec")
    rows: Any = training_ease((*sasrec, high, low, never), draws=50, seed=0)[0].details["arms"]
    assert rows[0]["runs_that_reach_95_percent_of_sasrec"] == 1
    assert rows[0]["cpu_seconds_to_95_percent_of_sasrec"] == 7.0
    assert rows[0]["share_within_5_percent_of_best"] == pytest.approx(1 / 3)


def test_spikes_are_steps_far_above_the_steps_before_them() -> None:
    rng = np.random.default_rng(0)
    calm = (5 - 0.01 * np.arange(300) + 0.05 * rng.standard_normal(300)).tolist()
    assert loss_spikes(calm) == 0
    calm[100] += 2
    calm[200] += 3
    assert loss_spikes(calm) == 2
    assert loss_spikes([1.0] * 10) == 0


def test_what_is_missing_is_said() -> None:
    runs = equal_probes(("contriever",), rng=np.random.default_rng(0))
    found = _measured(runs)
    assert found[2].missing == "the training probe has no runs of ilora-sasrec"
    assert "of sasrec, contriever and ilora-sasrec" in _measured(())[2].missing


def test_an_arm_without_one_of_the_learning_rates_is_compared_with_none() -> None:
    """Its mean over the others is another figure: rates differ by more than families do."""
    runs = equal_probes(ARMS, rng=np.random.default_rng(0))
    lacking = tuple(run for run in runs if run.arm != "contriever" or run.learning_rate != 1e-4)
    assert _measured(lacking)[2].estimate is None
    assert "no runs of contriever" in _measured(lacking)[2].missing
    one_seed = tuple(run for run in runs if run.arm != "ilora" or run.learning_rate != 1e-4 or run.seed == 1)
    assert _measured(one_seed)[1].seeds == 1
