from __future__ import annotations

import gc
import sys
import types
import weakref
from collections.abc import Iterator

import pytest

from app.collector import collector_paused, set_aside_start_up


class Node:
    """In a cycle with itself: only the collector can free it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_meanwhile_and_nothing_is_set_aside() -> None:
    set_aside = gc.get_freeze_count()
    with collector_paused():
        assert not gc.isenabled()
        node = weakref.ref(Node())
    assert gc.isenabled()
    assert gc.get_freeze_count() == set_aside
    gc.collect()
    assert node() is None


def test_what_an_import_has_made_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector_paused():
        monkeypatch.setitem(sys.modules, "app.as_if_imported", types.ModuleType("as_if_imported"))
        kept = [[node] for node in range(5_000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(kept)
    assert len(gc.get_objects()) < len(kept)


def test_an_import_that_fails_leaves_the_collector_on() -> None:
    with pytest.raises(ZeroDivisionError), collector_paused():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with collector_paused():
        pass
    assert not gc.isenabled()


def test_start_up_leaves_no_garbage_behind() -> None:
    node = weakref.ref(Node())
    set_aside_start_up()
    assert node() is None
    assert gc.get_freeze_count() > 10_000
