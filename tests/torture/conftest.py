"""Short by default, so that `make test` can afford it; `--full` (make torture) takes figures and writes the table."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.app.conftest import in_process as in_process
from tests.app.conftest import published as published
from tests.app.conftest import serve as serve
from tests.torture.bundles import PROFILES, TwoVersions
from tests.torture.figures import Figures
from tests.torture.service_process import LOAD_CORE


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="torture in full, with figures, and write results.json")


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    # The option is unknown where pytest was not started for this folder: then it is the short form.
    return bool(request.config.getoption("--full", default=False))


@pytest.fixture(scope="session")
def figures(full: bool) -> Iterator[Figures]:
    """Told by every torture; the table is written again after each, so that an interrupted run leaves what it has."""
    told = Figures()
    before = os.sched_getaffinity(0)
    if full and LOAD_CORE in before:
        os.sched_setaffinity(0, {LOAD_CORE})
    yield told
    os.sched_setaffinity(0, before)
    if full:
        told.write()
        sys.stdout.write(f"\n\n{told.table()}\n")


@pytest.fixture(autouse=True)
def kept(full: bool, figures: Figures) -> Iterator[None]:
    yield
    if full:
        figures.write()


@pytest.fixture
def two_versions(tmp_path: Path, full: bool) -> Callable[[str], TwoVersions]:
    """two_versions("sequence") or ("SmolLM2"): a store of its own."""
    return lambda profile: PROFILES[profile](tmp_path / "store", full=full)
