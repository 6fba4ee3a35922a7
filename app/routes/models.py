"""Versions: which are in the store, which are wanted, which this process serves."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from app import keys
from app.answers import LabelAnswer, ModelOut, ModelsAnswer, ServingOut
from app.errors import Problem
from app.routes.wire import answer, problems, read, takes
from app.schemas import LabelRequest
from app.service import Service
from model_store.labels import Labels
from model_store.manifest import Manifest

POLL_SECONDS = 0.02
BY = "api"
router = APIRouter(prefix="/v1", tags=["models"], dependencies=[Depends(keys.admin)])
Wait = Annotated[float, Query(ge=0, le=300, allow_inf_nan=False)]


@router.get("/models", response_model=ModelsAnswer, responses=problems(403, 409))
async def models(request: Request) -> Response:
    """Every version that can be read, oldest first; what is wanted; what this process serves."""
    service = Service.of(request)
    manifests, wanted = await asyncio.to_thread(lambda: (service.store.list(), service.store.labels()))
    return answer(
        ModelsAnswer([_model(service, manifest, wanted) for manifest in manifests], _wanted(wanted), _serving(service))
    )


@router.put(
    "/labels/live",
    status_code=202,
    response_model=LabelAnswer,
    responses={200: {"model": LabelAnswer}, **problems(403, 404, 409, 503, body=True)},
    openapi_extra=takes(LabelRequest),
)
async def label_live(request: Request, wait: Wait = 0.0) -> Response:
    """Says which version is wanted. 202 at once; with `wait` 200 when this process serves it, 409 when it cannot."""
    service = Service.of(request)
    ask = await read(request, LabelRequest)
    labels = await asyncio.to_thread(
        service.store.activate, ask.version, by=BY, expected_generation=ask.expected_generation
    )
    return await _followed(service, labels, wait)


@router.post(
    "/rollback",
    status_code=202,
    response_model=LabelAnswer,
    responses={200: {"model": LabelAnswer}, **problems(403, 404, 409, 503)},
)
async def rollback(request: Request, wait: Wait = 0.0) -> Response:
    """Swaps live and previous; instant where the previous version is still in memory."""
    service = Service.of(request)
    return await _followed(service, await asyncio.to_thread(service.store.rollback, by=BY), wait)


async def _followed(service: Service, labels: Labels, wait: float) -> Response:
    """Waits until this process serves what `labels` want, until it cannot, or until the time is over."""
    versions, until = service.versions, time.monotonic() + wait
    versions.hint()
    while wait and time.monotonic() < until:
        serving = versions.serving
        if serving is not None and serving.generation == labels.generation and not serving.degraded:
            return answer(LabelAnswer(_wanted(labels), _serving(service)))
        if versions.wanted.generation > labels.generation:
            raise Problem("not-possible", f"the labels have moved on to generation {versions.wanted.generation}")
        failed = versions.failed(labels.live) if versions.wanted.generation == labels.generation else None
        if failed is not None:
            raise Problem("not-possible", f"{labels.live} could not be loaded: {failed.reason}")
        await asyncio.sleep(POLL_SECONDS)
    return answer(LabelAnswer(_wanted(labels), _serving(service)), status=202)


def _model(service: Service, manifest: Manifest, wanted: Labels) -> ModelOut:
    state = service.versions.states.of(manifest.version)
    named = {"live": wanted.live, "previous": wanted.previous, "last_good": wanted.last_good}
    return ModelOut(
        version=manifest.version,
        family=manifest.family,
        encoder=manifest.encoder.kind,
        dim=manifest.dim,
        items=manifest.items,
        max_history=manifest.max_history,
        base=manifest.base,
        bytes=sum(record.bytes for record in manifest.files.values()),
        catalogue_at=manifest.catalogue_at,
        labels=[label for label, version in named.items() if version == manifest.version],
        state=state.state,
        reason=state.reason,
        warnings=list(manifest.warnings),
        metrics=[metric.model_dump() for metric in manifest.metrics],
    )


def _wanted(labels: Labels) -> dict[str, object]:
    return labels.model_dump(exclude={"salt"})


def _serving(service: Service) -> ServingOut | None:
    routing = service.versions.serving
    if routing is None:
        return None
    previous = routing.previous.version if routing.previous else None
    return ServingOut(routing.generation, routing.live.version, previous, routing.degraded)
