"""A service in a process of its own, bundles of the size that ML-100K gets, and how a figure is told.

A benchmark that misses its target says so and passes: what the figure means depends on what else the machine was
doing, and only a person knows that.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
import torch

from model_store.catalog import ItemCatalog
from model_store.encoders.history import HistoryBatch
from model_store.encoders.sequence import SequenceConfig
from model_store.manifest import Provenance
from model_store.staging import BundleParts
from model_store.store import ModelStore

ITEMS, DIM, HISTORY = 1682, 64, 50
ROOT = Path(__file__).parents[2]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--page", default=None, help="folder of a comparison page that shall tell the training step")


def tell(what: str, figure: float, most: float, unit: str) -> None:
    verdict = "held" if figure <= most else "MISSED"
    busy = os.getloadavg()[0]
    sys.stdout.write(
        f"\n{what}: {figure:.2f} {unit}; target: at most {most:g} {unit}; {verdict} "
        f"(load {busy:.1f} on {os.cpu_count()} cores)\n"
    )


@pytest.fixture
def report() -> Callable[[str, float, float, str], None]:
    """report(what, figure, most, unit)"""
    return tell


@dataclass(frozen=True)
class Served:
    process: subprocess.Popen[bytes]
    connection: http.client.HTTPConnection

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        """Status and body; one keep-alive connection."""
        self.connection.request(method, path, body, {"content-type": "application/json"})
        answer = self.connection.getresponse()
        return answer.status, answer.read()


@contextmanager
def service(store: ModelStore, data: Path) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = {"STORE": str(store.root), "DATA": str(data), "PORT": str(port), "REDIS_URL": "none", "THREADS": "1"}
    environment = {**os.environ, **{f"NAISEKI_{name}": value for name, value in settings.items()}}
    process = subprocess.Popen([sys.executable, "-m", "app"], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    served = Served(process, http.client.HTTPConnection("127.0.0.1", port, timeout=150))
    try:
        while not ready(served):
            assert process.poll() is None, "the service ended"
            time.sleep(0.2)
        yield served
    finally:
        served.connection.close()
        process.kill()
        process.wait()


def ready(served: Served) -> bool:
    try:
        return served.ask("GET", "/readyz")[0] == 200
    except OSError:
        served.connection.close()
        return False


@pytest.fixture
def start() -> Callable[[ModelStore, Path], AbstractContextManager[Served]]:
    return service


@pytest.fixture
def sasrec() -> BundleParts:
    """Untrained: neither time nor memory depend on the weights."""
    torch.manual_seed(0)
    config = SequenceConfig(items=ITEMS, dim=DIM, blocks=2, heads=2, max_history=HISTORY, jump=HISTORY // 4)
    encoder = config.build().eval()
    frame = pl.DataFrame(
        {
            "item_id": [str(row) for row in range(ITEMS)],
            "title": [f"Film {row}" for row in range(ITEMS)],
            "text": pl.Series([None] * ITEMS, dtype=pl.String),
            "categories": [["film"]] * ITEMS,
            "popularity": list(range(ITEMS)),
        }
    )
    golden = HistoryBatch.of([torch.randint(0, ITEMS, (1 + 2 * b,)) for b in range(32)])
    return BundleParts("sasrec", ItemCatalog(frame), encoder, encoder.item_vectors_ND.detach().clone(), golden)


def publish_live(store: ModelStore, parts: BundleParts) -> str:
    provenance = Provenance(
        run="bench", recipe={}, seed=0, dataset="none", dataset_fingerprint="none", split_fingerprint="none",
        protocol="none", packages={}, train_seconds=0.0,
    )  # fmt: skip
    version = store.publish(store.stage(parts, provenance=provenance))
    store.activate(version, by="bench")
    return version


@pytest.fixture
def publish() -> Callable[[ModelStore, BundleParts], str]:
    """Publishes the parts, and gives them the label live."""
    return publish_live
