from __future__ import annotations

import numpy as np
import pytest

from offline.claims.claim import CLAIMS, Finding, finalise, not_measured
from offline.evaluation.resampling import Estimate


def _finding(number: int, low: float, high: float, p: float, *, seeds: int = 5, holds_back: str = "") -> Finding:
    return Finding(
        number, "a minus b", Estimate((low + high) / 2, low, high, p, 0.03), seeds=seeds, holds_back=holds_back
    )


def test_verdicts_say_what_the_interval_says() -> None:
    found = finalise([_finding(4, 0.01, 0.03, 0.001), _finding(5, -0.03, -0.01, 0.001), _finding(8, -0.01, 0.03, 0.3)])
    assert [claim.verdict for claim in found] == ["supported", "contradicted", "undecided"]
    assert found[0].sentence == "Supported: a minus b is +0.0200 (+0.0100 to +0.0300), adjusted p 0.003."
    assert "would show a difference of at least 0.0300" in found[2].sentence
    assert [claim.claim for claim in found] == [CLAIMS[4], CLAIMS[5], CLAIMS[8]]
    assert found[0].p_holm == pytest.approx(0.003)


def test_p_is_adjusted_over_what_was_measured() -> None:
    others = [_finding(number, -0.1, 0.1, 0.9) for number in range(1, 5)]
    alone = finalise([_finding(13, 0.01, 0.03, 0.02), not_measured(3, "c", "nothing")])
    among = finalise([_finding(13, 0.01, 0.03, 0.02), *others])
    assert [alone[0].verdict, among[0].verdict] == ["supported", "undecided"]
    assert "among the 5 contrasts of this page that is within chance (adjusted p 0.100)" in among[0].sentence


def test_a_claim_needs_runs_and_nothing_that_holds_it_back() -> None:
    few, held, worse = finalise(
        [
            _finding(4, 0.01, 0.03, 0.001, seeds=3),
            _finding(7, 0.01, 0.03, 0.001, holds_back="ease reaches at least as much"),
            _finding(12, -0.03, -0.01, 0.001, holds_back="there are no runs of llamarec"),
        ]
    )
    assert few.verdict == held.verdict == "undecided"
    assert "needs 5 runs of each side, and one side has 3" in few.sentence
    assert held.sentence.endswith("but ease reaches at least as much.")
    assert worse.verdict == "contradicted", "what is missing could only make the minimum smaller"


def test_what_has_no_events_is_not_measured() -> None:
    nothing = Finding(4, "c", Estimate(np.nan, np.nan, np.nan, 1.0, np.nan), seeds=5)
    (claim,) = finalise([nothing])
    assert (claim.verdict, claim.value) == ("not measured", None)
