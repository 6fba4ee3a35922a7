from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from app.admission import WITHIN, Admission
from app.errors import Problem
from app.work import Urgency, Work
from model_store.bundle import Bundle

V = cast(Bundle, SimpleNamespace(version="v"))
W = cast(Bundle, SimpleNamespace(version="w"))


@dataclass(frozen=True, slots=True, eq=False)
class Answer(Work[None]):
    urgency: ClassVar[Urgency] = Urgency.ANSWER

    @classmethod
    def run(cls, bundle: Bundle, batch: Sequence[Work[None]]) -> list[None]:
        raise NotImplementedError


class Light(Answer):
    urgency: ClassVar[Urgency] = Urgency.LIGHT


class Shadow(Answer):
    urgency: ClassVar[Urgency] = Urgency.SHADOW


def answer(tokens: int, *, bundle: Bundle = V, key: bytes | None = None, own: int = 0) -> Answer:
    return Answer(bundle, tokens, key, own_tokens=own)


@pytest.fixture
def admission() -> Admission:
    """10 tokens take 10 ms, 100 take 50: what waits, waits in batches of up to 128."""
    made = Admission(max_batch_tokens=128, max_batch_seconds=0.1, queue_tokens=10_000)
    for bundle in (V, W):
        made.pace(bundle.version, Answer).observe(10, 0.010)
        made.pace(bundle.version, Answer).observe(100, 0.050)
    return made


def refused(admission: Admission, work: Work[Any], seconds: float) -> Problem | None:
    return admission.refusal(work, time.monotonic() + seconds)


def test_the_wait_is_queued_tokens_by_measured_tokens_per_second(admission: Admission) -> None:
    assert admission.wait_seconds() == 0
    for _ in range(20):
        admission.enter(answer(100))
    assert admission.wait_seconds() == pytest.approx(20 * 0.050)
    admission.enter(answer(100, bundle=W))
    assert admission.wait_seconds() == pytest.approx(21 * 0.050)


def test_small_batches_are_not_taken_for_the_pace_of_large_ones(admission: Admission) -> None:
    """Hundreds of short entries wait: each alone would take 10 ms, and they run in batches of a hundred tokens."""
    for _ in range(200):
        admission.enter(answer(10))
    assert admission.wait_seconds() == pytest.approx(2000 / 100 * 0.050)


def test_who_could_not_be_in_time_is_refused_at_once(admission: Admission) -> None:
    for _ in range(20):
        admission.enter(answer(100))
    assert refused(admission, answer(100), 1.05 / WITHIN + 0.05) is None
    problem = refused(admission, answer(100), 1.05 / WITHIN - 0.05)
    assert problem is not None
    assert (problem.status, problem.name) == (429, "overloaded")
    assert problem.headers["Retry-After"] == "2"


def test_with_nothing_before_it_an_entry_is_let_in_whatever_the_estimate(admission: Admission) -> None:
    admission.pace("v", Answer).observe(10_000, 1000.0)
    assert refused(admission, answer(10_000), 0.1) is None
    admission.enter(answer(1))
    assert refused(admission, answer(10_000), 0.1) is not None


def test_a_deadline_that_has_passed_is_said_so(admission: Admission) -> None:
    problem = refused(admission, answer(1), -0.001)
    assert problem is not None
    assert (problem.status, problem.name) == (504, "deadline")


def test_the_batch_that_runs_counts_until_it_should_have_ended(admission: Admission) -> None:
    admission.busy(30.0)
    assert 29 < admission.wait_seconds() < 30.01
    assert refused(admission, answer(1), 5.0) is not None
    admission.busy(0.0)
    assert refused(admission, answer(1), 5.0) is None
    admission.busy(0.001)
    time.sleep(0.005)
    assert refused(admission, answer(1), 5.0) is None, "an estimate that was too short does not become a negative wait"


def test_only_what_goes_before_it_makes_an_entry_wait(admission: Admission) -> None:
    for _ in range(80):
        admission.enter(answer(100))
    assert refused(admission, Light(V, 10, None), 1.0) is None
    assert refused(admission, answer(10), 1.0) is not None
    assert admission.wait_seconds(Urgency.LIGHT) == 0


def test_the_bound_of_the_queue_holds_without_any_estimate() -> None:
    admission = Admission(max_batch_tokens=128, max_batch_seconds=0.1, queue_tokens=10)
    admission.enter(answer(6))
    assert refused(admission, answer(5), 60.0) is not None
    assert refused(admission, answer(4), 60.0) is None
    assert refused(Admission(max_batch_tokens=1, max_batch_seconds=1, queue_tokens=1), answer(5), 60.0) is None


def test_equal_keys_share_their_tokens_and_an_entry_counts_as_one_at_least(admission: Admission) -> None:
    plain, ranked = answer(50, key=b"k"), answer(90, key=b"k", own=40)
    for work in (plain, ranked, plain, ranked):
        admission.enter(work)
    assert admission.waiting_tokens == 50 + 2 * 40
    for work in (ranked, plain, ranked):
        admission.leave(work)
    assert admission.waiting_tokens == 50
    admission.leave(plain)
    assert admission.waiting_tokens == 0
    small = Admission(max_batch_tokens=128, max_batch_seconds=0.1, queue_tokens=10)
    for _ in range(10):
        small.enter(answer(1, key=b"k"))
    assert refused(small, answer(1, key=b"k"), 60.0) is not None


def test_a_version_that_is_forgotten_is_measured_anew(admission: Admission) -> None:
    admission.forget("v")
    assert admission.pace("v", Answer).seconds(100) == 0
    assert admission.pace("w", Answer).seconds(100) > 0


def test_shadow_batches_are_small(admission: Admission) -> None:
    live = answer(1)
    shadow = Shadow(V, 1, None)
    admission.pace("v", Shadow).observe(100, 0.050)
    assert admission.budget(shadow) * 4 <= admission.budget(live)
