"""A damaged version is refused with the reason, whatever the damage, and what serves goes on."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from model_store.errors import StoreError
from tests.torture.bundles import TwoVersions
from tests.torture.damage import CRAFTED, Damage, of_bytes
from tests.torture.figures import Figures
from tests.torture.http_connection import Connections, request_bytes
from tests.torture.load import OpenLoad
from tests.torture.service_process import ServiceProcess
from tests.torture.test_swaps import body

RATE = 10.0
SHORT = ("weights.safetensors: byte", "manifest.json: byte", "weights: of another training")  # by the service itself
RESTARTS = ("encoder/weights.safetensors: cut in half", "items.faiss: missing", "manifest.json: cut in half")
profiles = pytest.mark.parametrize("profile", ["sequence", pytest.param("SmolLM2", marks=pytest.mark.slow)])


@contextmanager
def damaged(folder: Path, damage: Damage) -> Iterator[None]:
    """For the time of the block; afterwards the bundle is whole again."""
    whole = folder.parent.parent / "whole"
    shutil.copytree(folder, whole)
    try:
        damage.do(folder)
        yield
    finally:
        shutil.rmtree(folder)
        whole.rename(folder)
        for outside in folder.parent.parent.glob("outside-*"):
            shutil.rmtree(outside) if outside.is_dir() else outside.unlink()


@profiles
def test_the_store_refuses_every_kind(profile: str, two_versions: Callable[[str], TwoVersions]) -> None:
    versions = two_versions(profile)
    folder = versions.store.folder(versions.second)
    kinds = [*of_bytes(folder), *CRAFTED]
    assert len(kinds) >= 60
    for damage in kinds:
        with damaged(folder, damage), pytest.raises(StoreError, match=damage.reason):
            versions.store.open(versions.second)
    versions.store.open(versions.second)


async def offer(service: ServiceProcess, versions: TwoVersions, kinds: Sequence[Damage]) -> list[str]:
    """Offers each damaged version to a service under load; what went otherwise than promised."""
    folder = versions.store.folder(versions.second)
    wrong = []
    async with OpenLoad(service.port, body(versions), RATE) as load, Connections(service.port) as operator:
        for damage in kinds:
            with damaged(folder, damage):
                wish = json.dumps({"version": versions.second}).encode()
                told = await operator.ask(request_bytes("PUT", "/v1/labels/live?wait=120", wish), seconds=150)
            if told.status not in (404, 409) or damage.reason not in json.loads(told.body)["detail"]:
                wrong.append(f"{damage.name}: {told.status} {told.body[:300]!r}")
        await load.ended()
    others = [one.answer for one in load.sent if json.loads(one.answer.body or b"{}").get("version") != versions.first]
    return wrong + [f"answered {one.status} {one.body[:300]!r}" for one in others]


@profiles
def test_a_service_refuses_them_and_goes_on(
    profile: str, two_versions: Callable[[str], TwoVersions], tmp_path: Path, full: bool, figures: Figures
) -> None:
    if profile == "SmolLM2" and not full:
        pytest.skip("in full only (make torture): the store's own check above has met every kind")
    versions = two_versions(profile)
    kinds = [*of_bytes(versions.store.folder(versions.second)), *CRAFTED]
    if not full:
        kinds = [next(damage for damage in kinds if start in damage.name) for start in SHORT]
    with ServiceProcess(
        versions.store.root, tmp_path / "data", pinned=full, prepared=(versions.first,), redis_url="none"
    ) as service:
        wrong = asyncio.run(offer(service, versions, kinds))
        assert service.activate(versions.second).status_code == 200, "whole again, it must be taken"
        back = broken_restarts(service, versions, RESTARTS if full else RESTARTS[:1])
    figures.tell(f"damaged bundles, {profile}: kinds of damage", len(kinds))
    figures.tell(f"damaged bundles, {profile}: not refused, without a reason, or not answered meanwhile", len(wrong))
    figures.tell(f"damaged bundles, {profile}: restarts with a broken live that last_good does not serve", len(back))
    assert not wrong, wrong
    assert not back, back


def wait_for_last_good(versions: TwoVersions) -> None:
    """It is written by the process that serves the first version, a moment after it began to."""
    end = time.monotonic() + 20
    while versions.store.labels().last_good != versions.first:
        assert time.monotonic() < end, versions.store.labels()
        time.sleep(0.05)


def broken_restarts(service: ServiceProcess, versions: TwoVersions, names: Sequence[str]) -> list[str]:
    """The service starts with a live version that is broken, on a fresh cache; what went otherwise than promised."""
    wrong = []
    folder = versions.store.folder(versions.second)
    for name in names:
        assert service.activate(versions.first).status_code == 200
        wait_for_last_good(versions)
        service.signal(signal.SIGKILL)
        service.ended()
        shutil.rmtree(service.data / "prepared")
        versions.store.activate(versions.second, by="torture")
        (damage,) = [one for one in of_bytes(folder) if one.name == name]
        with damaged(folder, damage):
            told = service.start().ready().http.get("/readyz").json()
        if told["version"] != versions.first or damage.reason not in (told["degraded"] or ""):
            wrong.append(f"{name}: {told}")
    return wrong
