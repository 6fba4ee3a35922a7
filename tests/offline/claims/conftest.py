"""Worlds that several tests of claims read, made once."""

from __future__ import annotations

import pytest

from offline.claims import worlds
from offline.claims.twin_events import TwinEvents, twin_events
from offline.splits.sequences import Split


@pytest.fixture(scope="session")
def sequels() -> Split:
    return worlds.sequels()


@pytest.fixture(scope="session")
def sequel_twins(sequels: Split) -> TwinEvents:
    return twin_events(sequels.dataset, sequels.test)


@pytest.fixture(scope="session")
def long_interest() -> Split:
    return worlds.long_interest()
