from __future__ import annotations

import pytest

from app import rate_limit
from app.rate_limit import RateLimit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_then_so_many_a_second(clock: Clock) -> None:
    limit = RateLimit(2.0, 3, clock=clock)
    assert [limit.take("a") for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limit.take("a") == pytest.approx(0.5)
    assert limit.take("b") == 0.0, "another caller has another bucket"
    clock.now += 0.5
    assert limit.take("a") == 0.0
    assert limit.take("a") == pytest.approx(0.5)
    clock.now += 1000
    assert [limit.take("a") > 0 for _ in range(4)] == [False, False, False, True], "nothing is saved beyond the burst"


def test_a_refusal_takes_nothing(clock: Clock) -> None:
    limit = RateLimit(1.0, 1, clock=clock)
    limit.take("a")
    for _ in range(50):
        assert limit.take("a") > 0
    clock.now += 1
    assert limit.take("a") == 0.0


def test_a_call_that_was_many_is_paid_off_later(clock: Clock) -> None:
    limit = RateLimit(10.0, 20, clock=clock)
    assert limit.take("a") == 0.0
    limit.owe("a", 99)
    assert limit.take("a") == pytest.approx(8.1)
    clock.now += 8.11
    assert limit.take("a") == 0.0


def test_names_without_end_take_no_memory_without_end(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MOST_CALLERS", 10)
    limit = RateLimit(1.0, 1, clock=clock)
    for number in range(100):
        limit.take(f"caller-{number}")
    assert len(limit._buckets) == 10
    assert limit.take("caller-99") > 0, "who asked just now is remembered"
