from __future__ import annotations

import time

import pytest

from app.metrics import Metrics
from app.version_states import ON_THE_WAY, STATES, State, VersionStates


def test_a_load_is_timed_from_its_first_phase_to_its_end() -> None:
    states = VersionStates(Metrics())
    assert states.of("v").load_seconds() is None
    states.enter("v", "STAGED")
    assert states.of("v").load_seconds() is None, "it waits for its turn"
    for phase in ON_THE_WAY:
        states.enter("v", phase)
        time.sleep(0.01)
    now = states.of("v")
    total = now.load_seconds()
    assert total is not None
    assert total >= 0.03
    assert now.phase_seconds() < total
    states.enter("v", "READY")
    taken = states.of("v").load_seconds()
    time.sleep(0.02)
    assert states.of("v").load_seconds() == taken, "it is over"
    states.enter("v", "DRAINING")
    assert states.of("v").load_seconds() is None


def test_a_failure_counts_under_its_generation_only() -> None:
    metrics = Metrics()
    states = VersionStates(metrics)
    states.enter("v", "FAILED", reason="broken", generation=7)
    assert states.failed("v", 8) is None
    failed = states.failed("v", 7)
    assert failed is not None
    assert str(failed) == "FAILED: broken"
    assert states.failed(None, 7) is None


@pytest.mark.parametrize("state", STATES)
def test_a_version_is_in_one_state(state: State) -> None:
    metrics = Metrics()
    VersionStates(metrics).enter("v", state)
    values = {
        name: metrics.registry.get_sample_value("naiseki_version_state", {"version": "v", "state": name})
        for name in STATES
    }
    assert values == {name: float(name == state) for name in STATES}
