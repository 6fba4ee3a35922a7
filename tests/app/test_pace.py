from __future__ import annotations

import pytest

from app.pace import Pace


def test_nothing_known_bounds_nothing() -> None:
    assert Pace().seconds(100) == 0
    assert Pace().budget(0.1, 5000) == 4096


def test_a_batch_has_a_fixed_cost_that_larger_ones_share() -> None:
    pace = Pace()
    pace.observe(10, 0.067)
    assert pace.seconds(10) == pytest.approx(0.067)
    assert pace.seconds(40) == pytest.approx(0.268), "scaled up: an overestimate"
    pace.observe(40, 0.100)
    assert pace.seconds(40) == pytest.approx(0.100)
    assert pace.seconds(10) == pytest.approx(0.067)


def test_the_budget_is_the_largest_quarter_between_powers_of_two_within_the_time() -> None:
    pace = Pace()
    pace.observe(64, 0.064)
    assert pace.budget(0.511, 8192) == 448
    assert pace.budget(0.512, 8192) == 512
    assert pace.budget(0.319, 8192) == 256
    assert pace.budget(0.5, 100) == 96
    assert pace.budget(0.5, 64) == 64
    assert pace.budget(0.000001, 8192) == 1


def test_one_stall_does_not_shut_a_size_out_for_ever() -> None:
    pace = Pace()
    pace.observe(8, 0.010)
    pace.observe(64, 30.0)
    assert pace.budget(0.15, 8192) >= 64


def test_observations_are_averaged() -> None:
    pace = Pace()
    pace.observe(4, 0.4)
    for _ in range(50):
        pace.observe(4, 0.2)
    assert pace.seconds(4) == pytest.approx(0.2, rel=0.01)


def test_what_waits_is_estimated_by_what_batches_of_its_size_took_lately() -> None:
    pace = Pace()
    assert pace.seconds_in_batches(1000, 0.15, 8192) == 0
    pace.observe(4, 0.004)
    assert pace.seconds_in_batches(0, 0.15, 8192) == 0
    assert pace.seconds_in_batches(1000, 0.15, 8192) == pytest.approx(1.0), "scaled up from what is known"
    pace.observe(100, 0.2)
    assert pace.budget(0.15, 8192) == 128
    assert pace.seconds_in_batches(1000, 0.15, 8192) == pytest.approx(2.0), "batches of a hundred are slower today"
