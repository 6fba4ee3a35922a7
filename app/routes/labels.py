"""Labels: which version is wanted for what, who moved them, and whether this process serves it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from app import keys
from app.errors import Problem
from app.model_answers import AuditAnswer, LabelAnswer
from app.routes.models import serving, wanted
from app.routes.wire import answer, dropped_when_gone, problems, read, takes
from app.schemas import LabelRequest
from app.service import Service
from model_store.labels import Label, Labels

BY = "api"
SAYS_SO = 1.0  # look again after so long, whatever was told
router = APIRouter(prefix="/v1", tags=["models"], dependencies=[Depends(keys.admin)])
Wait = Annotated[float, Query(ge=0, le=300, allow_inf_nan=False)]
Generation = Annotated[int | None, Query(ge=0, le=2**53)]
DONE: dict[int | str, dict[str, Any]] = {200: {"model": LabelAnswer}}


@router.put(
    "/labels/{label}",
    status_code=202,
    response_model=LabelAnswer,
    responses={**DONE, **problems(403, 404, 409, 503, body=True)},
    openapi_extra=takes(LabelRequest),
)
async def put_label(request: Request, label: Label, wait: Wait = 0.0) -> Response:
    """Says which version is wanted. 202 at once; with `wait` 200 when this process serves it, 409 when it cannot."""
    service = Service.of(request)
    ask = await read(request, LabelRequest)
    if (ask.traffic is not None) != (label == "canary"):
        reason = "a canary needs its share of the users, 0 to 1, and no other label has one"
        raise Problem("invalid", f"/traffic: {reason}", members={"errors": [{"pointer": "/traffic", "reason": reason}]})
    labels = await asyncio.to_thread(
        service.store.label,
        label,
        ask.version,
        by=BY if ask.by is None else f"{BY}:{ask.by}",
        traffic=ask.traffic,
        expected_generation=ask.expected_generation,
    )
    return await _followed(request, labels, _Wish.of(labels, label), wait=wait)


@router.delete(
    "/labels/{label}",
    status_code=202,
    response_model=LabelAnswer,
    responses={**DONE, **problems(403, 409, 503)},
)
async def delete_label(
    request: Request, label: Label, wait: Wait = 0.0, expected_generation: Generation = None
) -> Response:
    """No version is wanted for it any more. `live` can only be moved."""
    if label == "live":
        raise Problem("not-possible", "a store cannot be without a live version once it has one: label another one")
    labels = await asyncio.to_thread(
        Service.of(request).store.label, label, None, by=BY, expected_generation=expected_generation
    )
    return await _followed(request, labels, _Wish.of(labels, label), wait=wait)


@router.post(
    "/rollback",
    status_code=202,
    response_model=LabelAnswer,
    responses={**DONE, **problems(403, 404, 409, 503)},
)
async def rollback(request: Request, wait: Wait = 0.0, expected_generation: Generation = None) -> Response:
    """Swaps live and previous; instant where the previous version is still in memory."""
    store = Service.of(request).store
    labels = await asyncio.to_thread(store.rollback, by=BY, expected_generation=expected_generation)
    return await _followed(request, labels, _Wish.of(labels, "live"), wait=wait)


@router.get("/audit", response_model=AuditAnswer, responses=problems(403, 409))
async def audit(request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
    """The last moves of labels, by whomever, newest first."""
    return answer(AuditAnswer(await asyncio.to_thread(Service.of(request).store.audit, limit)))


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a call wanted of one label; later changes of other labels do not touch it."""

    label: Label
    version: str | None
    traffic: float | None

    @classmethod
    def of(cls, labels: Labels, label: Label) -> _Wish:
        traffic = labels.canary.traffic if label == "canary" and labels.canary else None
        return cls(label, labels.version_of(label), traffic)


async def _followed(request: Request, labels: Labels, wish: _Wish, *, wait: float) -> Response:
    """Waits until this process serves the wish, until it cannot, or until the time is over."""
    service, until = Service.of(request), time.monotonic() + wait
    service.versions.hint(labels)
    saying = asyncio.create_task(service.hints.say(labels.generation)) if service.hints else None
    async with dropped_when_gone(request):
        served = await _until_served(service, labels.generation, wish, until=until)
        if saying is not None:
            await saying
    return answer(LabelAnswer(wanted(labels), serving(service)), status=200 if served else 202)


async def _until_served(service: Service, generation: int, wish: _Wish, *, until: float) -> bool:
    versions, label = service.versions, wish.label
    while (left := until - time.monotonic()) > 0 and not service.draining:
        now = versions.wanted
        if now.generation >= generation:
            if _Wish.of(now, label) != wish:
                raise Problem("not-possible", f"the labels have moved on to generation {now.generation}")
            targets = versions.targets()
            if targets.serves(label):
                return True
            trouble = targets.trouble(label)
            if trouble is not None:
                raise Problem("not-possible", f"{wish.version} could not be loaded: {trouble}")
        try:
            await asyncio.wait_for(versions.change(), min(left, SAYS_SO))
        except TimeoutError:
            continue
    return False
