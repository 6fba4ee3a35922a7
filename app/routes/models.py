"""Versions: which are in the store, which are wanted, which this process has in memory and serves."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from app import keys
from app.errors import Problem
from app.kept import keep, let_go
from app.model_answers import CanaryOut, LoadAnswer, ModelOut, ModelsAnswer, ProgressOut, ServingOut
from app.routes.wire import answer, dropped_when_gone, problems
from app.service import Service
from app.version_states import ON_THE_WAY, State, VersionState
from model_store.audit import LABELS
from model_store.labels import Labels
from model_store.manifest import Manifest, VersionName

LOOK_SECONDS = 1.0
router = APIRouter(prefix="/v1", tags=["models"], dependencies=[Depends(keys.admin)])
Wait = Annotated[float, Query(ge=0, le=300, allow_inf_nan=False)]
Version = Annotated[VersionName, Path()]


@router.get("/models", response_model=ModelsAnswer, responses=problems(403, 409))
async def models(request: Request) -> Response:
    """Every version that can be read, oldest first; what is wanted; what this process serves."""
    service = Service.of(request)
    manifests, labels = await asyncio.to_thread(lambda: (service.store.list(), service.store.labels()))
    found = [_model(service, manifest, labels) for manifest in manifests]
    return answer(ModelsAnswer(found, wanted(labels), serving(service)))


@router.post(
    "/models/{version}/load",
    status_code=202,
    response_model=LoadAnswer,
    responses={200: {"model": LoadAnswer}, **problems(403, 404, 409, 503)},
)
async def load(request: Request, version: Version, wait: Wait = 0.0) -> Response:
    """Keeps a version in memory under no label: it answers requests that name it. Tries again what failed.

    202 at once; with `wait` 200 when it is there, 409 when it cannot be loaded.
    """
    service = Service.of(request)
    await asyncio.to_thread(service.store.manifest, version)
    keep(service.versions, version, most=service.settings.models_kept)
    async with dropped_when_gone(request):
        state = await _until(service, version, ("READY", "FAILED"), wait=wait)
    if wait and state.state == "FAILED":
        raise Problem("not-possible", f"{version} could not be loaded: {state.reason}")
    return answer(_load_answer(service, version), status=200 if state.state == "READY" else 202)


@router.post(
    "/models/{version}/unload",
    status_code=202,
    response_model=LoadAnswer,
    responses={200: {"model": LoadAnswer}, **problems(403, 404, 409, 503)},
)
async def unload(request: Request, version: Version, wait: Wait = 0.0) -> Response:
    """Frees a version that no label needs, when the requests that it answers are done; 200 when it is gone."""
    service = Service.of(request)
    if version not in service.versions.targets().memory:
        await asyncio.to_thread(service.store.folder, version)
    let_go(service.versions, version)
    gone: tuple[State, ...] = ("UNLOADED", "FAILED", "STAGED")
    async with dropped_when_gone(request):
        state = await _until(service, version, gone, wait=wait)
    return answer(_load_answer(service, version), status=200 if state.state in gone else 202)


async def _until(service: Service, version: str, states: tuple[State, ...], *, wait: float) -> VersionState:
    """Its state when it is one of these, or when the time is over."""
    versions, until = service.versions, time.monotonic() + wait
    while (left := until - time.monotonic()) > 0 and not service.draining:
        if versions.states.of(version).state in states:
            break
        try:
            await asyncio.wait_for(versions.change(), min(left, LOOK_SECONDS))
        except TimeoutError:
            continue
    return versions.states.of(version)


def _model(service: Service, manifest: Manifest, labels: Labels) -> ModelOut:
    version = manifest.version
    state = service.versions.states.of(version)
    carried: list[str] = [label for label in LABELS if labels.version_of(label) == version]
    seconds = state.load_seconds()
    return ModelOut(
        version=version,
        family=manifest.family,
        encoder=manifest.encoder.kind,
        dim=manifest.dim,
        items=manifest.items,
        max_history=manifest.max_history,
        base=manifest.base,
        bytes=sum(record.bytes for record in manifest.files.values()),
        catalogue_at=manifest.catalogue_at,
        labels=carried + (["last_good"] if labels.last_good == version else []),
        state=state.state,
        reason=state.reason,
        warnings=list(manifest.warnings),
        metrics=[metric.model_dump() for metric in manifest.metrics],
        since=round(state.since, 3),
        memory_bytes=_memory_bytes(service, version),
        progress=_progress(state),
        load_seconds=None if seconds is None else round(seconds, 3),
    )


def _load_answer(service: Service, version: str) -> LoadAnswer:
    state = service.versions.states.of(version)
    return LoadAnswer(version, state.state, state.reason, _memory_bytes(service, version), _progress(state))


def _memory_bytes(service: Service, version: str) -> int | None:
    loaded = service.versions.targets().memory.get(version)
    return loaded.memory_bytes if loaded is not None else None


def _progress(state: VersionState) -> ProgressOut | None:
    seconds = state.load_seconds()
    if state.state not in ON_THE_WAY or seconds is None:
        return None
    return ProgressOut(state.state, round(state.phase_seconds(), 3), round(seconds, 3))


def wanted(labels: Labels) -> dict[str, object]:
    return labels.model_dump(exclude={"salt"})


def serving(service: Service) -> ServingOut | None:
    routing, targets = service.versions.serving, service.versions.targets()
    if routing is None:
        return None
    failed: dict[str, str] = {label: why for label in LABELS if (why := targets.trouble(label)) is not None}
    return ServingOut(
        routing.generation,
        routing.live.version,
        routing.previous.version if routing.previous else None,
        routing.degraded,
        canary=CanaryOut(routing.canary.version, routing.traffic) if routing.canary else None,
        shadow=routing.shadow.version if routing.shadow else None,
        loaded=[one.version for one in routing.others],
        swapping=routing.swapping,
        failed=failed,
    )
