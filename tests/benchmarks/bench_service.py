"""What the service adds to a request at concurrency 1: HTTP, validation, queue, threads, JSON.

    make bench            (or: pytest tests/benchmarks/bench_service.py -s)

Bare: encode + search of the same history, in this process, one thread. Served: one keep-alive connection to a server in
a process of its own. The two alternate, so that a busy machine slows both.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import torch

from model_store.bundle import Bundle
from model_store.catalog import ItemCatalog
from model_store.encoders.history import HistoryBatch
from model_store.encoders.sequence import SequenceConfig
from model_store.manifest import Provenance
from model_store.retrieval import Want
from model_store.staging import BundleParts
from model_store.store import ModelStore

ITEMS, DIM, HISTORY, ROUNDS = 1682, 64, 50, 600
MOST_ADDED_MS = 3.0
ROOT = Path(__file__).parents[2]


def publish(store: ModelStore) -> Bundle:
    """A SASRec of the size that ML-100K gets, untrained: the time does not depend on the weights."""
    torch.manual_seed(0)
    config = SequenceConfig(items=ITEMS, dim=DIM, blocks=2, heads=2, max_history=HISTORY, jump=HISTORY // 4)
    encoder = config.build().eval()
    frame = pl.DataFrame(
        {
            "item_id": [str(row) for row in range(ITEMS)],
            "title": [f"Film {row}" for row in range(ITEMS)],
            "text": [None] * ITEMS,
            "categories": [["film"]] * ITEMS,
            "popularity": list(range(ITEMS)),
        },
        schema_overrides={"text": pl.String},
    )
    golden = HistoryBatch.of([torch.randint(0, ITEMS, (1 + 2 * b,)) for b in range(32)])
    vectors_ND = encoder.item_vectors_ND.detach().clone()
    parts = BundleParts("sasrec", ItemCatalog(frame), encoder, vectors_ND, golden)
    provenance = Provenance(
        run="bench", recipe={}, seed=0, dataset="none", dataset_fingerprint="none", split_fingerprint="none",
        protocol="none", packages={}, train_seconds=0.0,
    )  # fmt: skip
    version = store.publish(store.stage(parts, provenance=provenance))
    store.activate(version, by="bench")
    return store.open(version)


@contextmanager
def service(store: ModelStore, data: Path) -> Iterator[http.client.HTTPConnection]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = {"STORE": str(store.root), "DATA": str(data), "PORT": str(port), "REDIS_URL": "none", "THREADS": "1"}
    environment = {**os.environ, **{f"NAISEKI_{name}": value for name, value in settings.items()}}
    process = subprocess.Popen([sys.executable, "-m", "app"], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        while True:
            assert process.poll() is None, "the service ended"
            try:
                connection.request("GET", "/readyz")
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    break
            except OSError:
                connection.close()
            time.sleep(0.2)
        yield connection
    finally:
        connection.close()
        process.kill()
        process.wait()


def test_what_the_service_adds(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    store = ModelStore(tmp_path / "store")
    bundle = publish(store)
    generator = np.random.default_rng(0)
    bare, served, inside = [], [], []
    with service(store, tmp_path / "data") as connection:
        for _ in range(ROUNDS):
            rows = generator.integers(0, ITEMS, HISTORY).tolist()
            want = Want(10, excluded_rows=np.unique(rows))
            started = time.perf_counter()
            bundle.search(bundle.encode(HistoryBatch.of([rows])).vectors_BD, [want])
            bare.append(time.perf_counter() - started)

            body = json.dumps({"history": [str(row) for row in rows]})
            started = time.perf_counter()
            connection.request("POST", "/v1/recommend", body, {"content-type": "application/json"})
            answer = json.loads(connection.getresponse().read())
            served.append(time.perf_counter() - started)
            inside.append(answer["timings_ms"]["total"] / 1000)
    p50 = {
        name: 1000 * statistics.median(times) for name, times in (("bare", bare), ("served", served), ("in", inside))
    }
    sys.stdout.write(
        f"\np50 of {ROUNDS}: bare {p50['bare']:.2f} ms, served {p50['served']:.2f} ms "
        f"({p50['in']:.2f} ms of it inside recommend), added {p50['served'] - p50['bare']:.2f} ms\n"
    )
    assert p50["served"] - p50["bare"] <= MOST_ADDED_MS
