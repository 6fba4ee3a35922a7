"""Whatever happens to the files of a bundle that is loaded, its answers stay as they are: it owns its memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.settings import Settings
from model_store.staging import BundleParts

if TYPE_CHECKING:
    from tests.app.conftest import Pair, Running

HISTORIES = [
    [f"smollm2-{(start + step * 7) % 60}" for step in range(length)] for start, length in enumerate((1, 5, 30))
]


@pytest.fixture
def server(
    pair: Pair,
    in_process: None,
    real_language_model: Callable[..., BundleParts],
    serve: Callable[[Settings], AbstractContextManager[Running]],
) -> Iterator[Running]:
    """A language model is live, a SASRec previous: both kinds of files."""
    from tests.app.conftest import publish_parts

    parts = real_language_model(keep_layers=1, items=60, dim=8, max_history=12)
    pair.store.activate(publish_parts(pair.store, parts), by="test")
    settings = Settings(store=pair.store.root, data=pair.store.root / "data", redis_url="none", poll_seconds=600)
    with serve(settings) as running:
        running.ready()
        while running.service.versions.current().previous is None:
            pass
        yield running


def answers(server: Running, versions: list[str]) -> list[Any]:
    found = []
    for version in versions:
        for history in HISTORIES:
            renamed = [item.replace("smollm2", version.split("-")[1]) for item in history]
            answer = server.http.post("/v1/recommend", json={"history": renamed, "version": version, "k": 20})
            assert answer.status_code == 200, answer.text
            found.append(answer.json()["items"])
        found.append(server.http.post("/v1/recommend", json={"version": version}).json()["items"])
    found.append(server.http.get("/v1/items", params={"q": "film 1"}).json())
    similar = server.http.post("/v1/items/similar", json={"item_id": HISTORIES[0][0]})
    return [*found, similar.json()]


def truncate(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(0)


def overwrite(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(b"\xff" * file.stat().st_size)


def test_files_of_a_loaded_bundle_are_not_needed_any_more(server: Running, pair: Pair) -> None:
    routing = server.service.versions.current()
    versions = [one.version for one in routing.loaded()]
    assert len(versions) == 2
    before = answers(server, versions)
    cache = pair.store.root / "data" / "prepared"
    files = [file for folder in (*map(pair.store.folder, versions), cache) for file in folder.rglob("*")]
    files = [file for file in files if file.is_file()]
    assert {file.suffix for file in files} >= {".safetensors", ".faiss", ".parquet", ".json"}
    damages: tuple[Callable[[Path], None], ...] = (overwrite, truncate, Path.unlink)
    for damage in damages:
        for file in files:
            damage(file)
        assert answers(server, versions) == before
    shutil.rmtree(cache)
    assert answers(server, versions) == before
    assert server.http.get("/readyz").status_code == 200
