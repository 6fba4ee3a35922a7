from __future__ import annotations

import pytest

from app.circuit_breaker import CircuitBreaker, CircuitOpen


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(failures=3, cooldown_s=1.0, clock=clock)


def fail(breaker: CircuitBreaker, clock: Clock, times: int = 1) -> None:
    for _ in range(times):
        started = breaker.enter()
        clock.now += 0.05
        breaker.failed(started)


def test_opens_after_failures_in_a_row_only(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, clock, 2)
    breaker.succeeded(breaker.enter())
    fail(breaker, clock, 2)
    assert not breaker.is_open
    fail(breaker, clock)
    assert breaker.is_open
    with pytest.raises(CircuitOpen):
        breaker.enter()


def test_calls_that_fail_together_are_one_failure(breaker: CircuitBreaker, clock: Clock) -> None:
    started = [breaker.enter() for _ in range(50)]
    clock.now += 0.05
    for one in started:
        breaker.failed(one)
    assert not breaker.is_open


def test_one_probe_at_a_time_after_the_cooldown(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, clock, 3)
    clock.now += 1.0
    probe = breaker.enter()
    with pytest.raises(CircuitOpen):
        breaker.enter()
    breaker.failed(probe)
    with pytest.raises(CircuitOpen):
        breaker.enter()
    clock.now += 1.0
    breaker.succeeded(breaker.enter())
    assert not breaker.is_open
    breaker.enter()


def test_cancelled_probe_lets_another_go(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, clock, 3)
    clock.now += 1.0
    breaker.abandoned(breaker.enter())
    assert breaker.is_open
    breaker.enter()


def test_late_failure_of_an_old_call_does_not_end_the_probe(breaker: CircuitBreaker, clock: Clock) -> None:
    old = breaker.enter()
    fail(breaker, clock, 3)
    clock.now += 1.0
    probe = breaker.enter()
    breaker.failed(old)
    with pytest.raises(CircuitOpen):
        breaker.enter()
    breaker.succeeded(probe)
    assert not breaker.is_open
