"""An item that is put online is found within a second, and stays: after a swap, a restart, and on the other replica."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from model_store.store import ModelStore
from offline.pipeline import run
from offline.run_config import RunConfig
from offline.workspace import Workspace
from tests.torture.figures import Figures
from tests.torture.service_process import ServiceProcess

if TYPE_CHECKING:
    from tests.conftest import WriteRun

START = "new item by PUT: "
ROUNDS = 5
LIMIT_SECONDS = 10.0


@pytest.fixture
def contriever(write_run: WriteRun, tmp_path: Path) -> tuple[ModelStore, str, str]:
    """Two versions of a small Contriever-Rec, trained for a moment; the first is live."""
    store, workspace = ModelStore(tmp_path / "store"), Workspace(tmp_path / "cache")
    versions = []
    for name, max_history in (("one", "8"), ("two", "6")):
        file = write_run(name, "contriever", dim="8", max_history=max_history)
        file.write_text(file.read_text().replace("epochs = 3", "epochs = 1"))
        versions.append(run(RunConfig.load(file), store=store, workspace=workspace))
    store.activate(versions[0], by="torture")
    return store, versions[0], versions[1]


def is_shown(service: ServiceProcess, item: str) -> bool:
    """Among the recommendations when nothing else is allowed, and when it is the history itself."""
    answer = service.recommend(history=["i1", "i2"], allow_ids=[item], k=5)
    if answer.status_code != 200:
        return False
    told = answer.json()
    items = [one["item_id"] for one in told["items"]]
    known = service.recommend(history=[item], k=5)
    return items == [item] and told["fallback"] is None and known.json()["unknown_items"] == []


def shown_after(service: ServiceProcess, item: str, since: float) -> float:
    while not is_shown(service, item):
        if time.perf_counter() - since > LIMIT_SECONDS:
            return float("inf")
        time.sleep(0.01)
    return time.perf_counter() - since


def test_a_new_item(contriever: tuple[ModelStore, str, str], tmp_path: Path, full: bool, figures: Figures) -> None:
    store, first, second = contriever
    with ServiceProcess(store.root, tmp_path / "data", pinned=full, prepared=(first, second)) as service:
        if ("/v1/items", "put") not in service.routes():
            figures.not_measured(START, "items cannot be put yet")
            pytest.skip("NOT TORTURED: items cannot be put yet")
        took = []
        for n in range(ROUNDS if full else 1):
            since = time.perf_counter()
            put = service.http.put("/v1/items", params={"id": f"new-{n}"}, json={"title": f"Item {n} (2009)"})
            assert put.status_code == 200, put.text
            took.append(shown_after(service, f"new-{n}", since))
        missing = [place for place, check in PLACES.items() if not check(service, store, second)]
    figures.tell(START + "in results after", max(took))
    figures.tell(START + "places where it is missing (swap, restart, other replica)", len(missing))
    assert not missing, missing
    assert max(took) < LIMIT_SECONDS


def after_a_swap(service: ServiceProcess, store: ModelStore, second: str) -> bool:
    assert service.activate(second).status_code == 200
    return is_shown(service, "new-0")


def after_a_restart(service: ServiceProcess, store: ModelStore, second: str) -> bool:
    service.signal(signal.SIGKILL)
    service.ended()
    service.start().ready()
    return shown_after(service, "new-0", time.perf_counter()) < 1


def on_the_other_replica(service: ServiceProcess, store: ModelStore, second: str) -> bool:
    """Put there before this replica started, and put while it runs."""
    with ServiceProcess(store.root, service.data, pinned=False) as other:
        if shown_after(other, "new-0", time.perf_counter()) > 1:
            return False
        since = time.perf_counter()
        service.http.put("/v1/items", params={"id": "late"}, json={"title": "Item 3 (2008)"}).raise_for_status()
        return shown_after(other, "late", since) <= 1


PLACES: dict[str, Callable[[ServiceProcess, ModelStore, str], bool]] = {
    "swap": after_a_swap,
    "restart": after_a_restart,
    "other replica": on_the_other_replica,
}
