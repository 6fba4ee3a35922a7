"""Decisions about labels, without a bundle: `test_versions` carries them out."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import cast

import pytest

from app.routing import Loaded, Routing
from app.targets import ONE_ONLY, Keeping, Targets
from app.version_states import VersionState
from model_store.bundle import Bundle
from model_store.labels import Label, Labels

WANTED = (
    Labels(salt="s")
    .labelled("live", "old", by="t")
    .labelled("live", "live", by="t")
    .labelled("canary", "trial", by="t", traffic=0.25)
    .labelled("shadow", "quiet", by="t")
)
MEMORY = {
    name: Loaded(cast(Bundle, SimpleNamespace(version=name)))
    for name in ("old", "live", "trial", "quiet", "kept", "good")
}
SERVING = Routing(1, MEMORY["old"])


def targets(
    serving: Routing | None = SERVING,
    *,
    labels: Labels = WANTED,
    memory: Iterable[str] = MEMORY,
    failed: Iterable[str] = (),
    asked: Iterable[str] = (),
    keeping: Keeping | None = None,
) -> Targets:
    broken = {name: VersionState("FAILED", f"{name} is broken", labels.generation) for name in failed}
    return Targets(
        labels, serving, {name: MEMORY[name] for name in memory}, tuple(asked), broken.get, keeping or Keeping()
    )


def served(found: Targets) -> dict[str, str | None]:
    routing = found.routing()
    assert routing is not None
    slots = {slot: getattr(routing, slot) for slot in ("live", "previous", "canary", "shadow")}
    return {slot: one and one.version for slot, one in slots.items()}


def test_everything_that_is_there() -> None:
    found = targets(asked=["kept", "live"])
    assert served(found) == {"live": "live", "previous": "old", "canary": "trial", "shadow": "quiet"}
    routing = found.routing()
    assert routing is not None
    assert (routing.generation, routing.traffic, routing.salt, routing.degraded) == (4, 0.25, "s", None)
    assert [one.version for one in routing.others] == ["kept"], "what has a label needs no second place"
    assert found.missing() is None


@pytest.mark.parametrize("label", ["live", "canary", "shadow"])
@pytest.mark.parametrize("failed", [True, False])
def test_what_is_missing_or_broken_holds_back_no_other_label(label: Label, failed: bool) -> None:
    absent = WANTED.version_of(label)
    assert absent is not None
    found = targets(memory=set(MEMORY) - {absent}, failed=[absent] if failed else [])
    expected: dict[str, str | None] = {"live": "live", "previous": "old", "canary": "trial", "shadow": "quiet"}
    expected |= {"live": "old", "previous": None} if label == "live" else {}
    present = served(found)
    for other in set(expected) - {label}:
        assert present[other] == expected[other], other
    assert found.missing() == (None if failed else absent)
    after = targets(found.routing(), memory=set(MEMORY) - {absent}, failed=[absent] if failed else [])
    others: tuple[Label, ...] = ("live", "canary", "shadow")
    assert all(after.serves(other) for other in others if other != label)
    assert not after.serves(label)
    assert after.trouble(label) == (f"{absent} is broken" if failed else None)


def test_the_most_urgent_is_loaded_first() -> None:
    order = []
    memory: set[str] = set()
    while (missing := targets(memory=memory, asked=["kept"]).missing()) is not None:
        order.append(missing)
        memory.add(missing)
    assert order == ["live", "trial", "old", "quiet", "kept"]


def test_at_start_only_what_answers_is_loaded() -> None:
    labels = WANTED.good("good")
    assert targets(None, labels=labels, memory=()).needed() == ["live"]
    assert targets(None, labels=labels, memory=(), failed=["live"]).needed() == ["live", "good", "old"]
    last_good = targets(None, labels=labels, memory=["good"], failed=["live"]).routing()
    assert last_good is not None
    assert (last_good.live.version, last_good.degraded) == ("good", "live failed: live is broken")
    previous = targets(None, labels=labels, memory=["old"], failed=["live", "good"]).routing()
    assert previous is not None
    assert previous.live.version == "old"
    assert targets(None, labels=labels, memory=[], failed=["live", "good", "old"]).routing() is None


def test_a_label_that_is_taken_away_is_obeyed_while_live_is_broken() -> None:
    before = targets(memory=set(MEMORY) - {"live"}, failed=["live"]).routing()
    labels = WANTED.labelled("canary", None, by="t")
    after = targets(before, labels=labels, memory=set(MEMORY) - {"live"}, failed=["live"])
    assert after.trouble("canary") is None
    routing = after.routing()
    assert routing is not None
    assert (routing.canary, routing.traffic) == (None, 0.0)
    assert targets(routing, labels=labels).serves("canary")


def test_a_share_that_grows_is_served_when_it_has_grown() -> None:
    before = targets().routing()
    labels = WANTED.labelled("canary", "trial", by="t", traffic=0.5)
    after = targets(before, labels=labels)
    assert not after.serves("canary")
    assert targets(after.routing(), labels=labels).serves("canary")


def test_a_process_that_keeps_one_version() -> None:
    one = Keeping(one=True)
    found = targets(keeping=one, asked=["kept"])
    assert served(found) == {"live": "live", "previous": None, "canary": None, "shadow": None}
    assert found.needed() == ["live"]
    assert (found.trouble("canary"), found.trouble("previous")) == (ONE_ONLY, None)
    assert targets(found.routing(), keeping=one).serves("previous")


def test_a_process_without_previous() -> None:
    found = targets(keeping=Keeping(previous=False))
    assert served(found)["previous"] is None
    assert "old" not in found.needed()
    assert targets(found.routing(), keeping=Keeping(previous=False)).serves("previous")


def test_a_swap_that_fails_goes_back_to_what_was_good() -> None:
    husk = Routing(1, Loaded(cast(Bundle, SimpleNamespace(version="old"))), swapping=True)
    one, labels = Keeping(one=True), WANTED.good("old")
    assert targets(husk, labels=labels, memory=(), keeping=one).routing() is husk
    failed = targets(husk, labels=labels, memory=(), failed=["live"], keeping=one)
    assert failed.needed() == ["live", "old"]
    routing = failed.routing()
    assert routing is not None
    assert (routing.swapping, routing.degraded) == (True, "live failed: live is broken")
    back = targets(routing, labels=labels, memory=["old"], failed=["live"], keeping=one).routing()
    assert back is not None
    assert (back.live, back.swapping) == (MEMORY["old"], False)
    assert not targets(back, labels=labels, failed=["live"], keeping=one).serves("live")
