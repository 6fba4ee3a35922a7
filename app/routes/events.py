"""What users did: record it, read it, forget it."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from app import keys
from app.answers import EventsAnswer, ForgottenAnswer, HistoryAnswer, HistoryEvent, ProblemOut, RefusedEvent
from app.errors import Problem, not_ready, problem_of
from app.request_ids import parse_request_id, version_hash
from app.routes.wire import answer, problems, read, takes
from app.schemas import EventIn, EventsRequest, Id
from app.service import Service
from app.user_history import Event, HistoriesUnavailable

AHEAD_MS = 5 * 60 * 1000
router = APIRouter(prefix="/v1", tags=["events"], dependencies=[Depends(keys.client)])
Limit = Annotated[int, Query(ge=1, le=100_000)]


@router.post(
    "/events", response_model=EventsAnswer, responses=problems(409, 503, body=True), openapi_extra=takes(EventsRequest)
)
async def record(request: Request) -> Response:
    """Acknowledges or refuses each of at most 1,000 events; 503 only if nothing could be accepted."""
    service = Service.of(request)
    events = (await read(request, EventsRequest)).events
    histories = service.need_histories()
    latest_ms = time.time_ns() // 1_000_000 + AHEAD_MS
    timely = [index for index, event in enumerate(events) if (event.timestamp or 0) <= latest_ms]
    outcomes = dict(zip(timely, await histories.append([_event(events[index]) for index in timely]), strict=True))
    failures = [one for one in outcomes.values() if isinstance(one, HistoriesUnavailable)]
    if failures and len(failures) == len(outcomes):
        service.metrics.rejects.labels("histories").inc()
        raise not_ready("the histories cannot be written; nothing was recorded")
    _count_clicks(service, [event for index, event in enumerate(events) if outcomes.get(index) == "accepted"])
    said = list(outcomes.values())
    refused = [
        RefusedEvent(index, ProblemOut(**_refusal(outcomes.get(index)).body()))
        for index in range(len(events))
        if index not in outcomes or isinstance(outcomes[index], HistoriesUnavailable)
    ]
    return answer(EventsAnswer(said.count("accepted"), said.count("duplicate"), said.count("old"), refused))


def _event(event: EventIn) -> Event:
    return Event(event.user_id, event.item_id, event.timestamp, event.event_id)


def _refusal(outcome: Any) -> Problem:
    if isinstance(outcome, HistoriesUnavailable):
        return problem_of(outcome)
    return Problem("invalid", "timestamp: more than five minutes ahead of this server's clock")


def _count_clicks(service: Service, events: list[EventIn]) -> None:
    """A request id tells which version answered, under which label and when: no impression needs to be looked up."""
    clicked = [event for event in events if event.request_id is not None]
    if service.feedback is None or not clicked:
        return
    routing = service.versions.serving
    versions = {version_hash(one.version): one.version for one in routing.loaded()} if routing else {}
    for event in clicked:
        assert event.request_id is not None
        answered = parse_request_id(event.request_id)
        version = versions.get(answered.version_hash) if answered else None
        service.feedback.clicked(event.request_id, event.item_id, user_id=event.user_id, version=version)


@router.get("/history", response_model=HistoryAnswer, responses=problems(409, 503))
async def read_history(request: Request, user_id: Annotated[Id, Query()], limit: Limit = 100_000) -> Response:
    """The newest `limit` events of a user, oldest first; empty for an unknown user."""
    events = await Service.of(request).need_histories().read_events(user_id, limit)
    return answer(HistoryAnswer(user_id, [HistoryEvent(event.item_id, event.timestamp_ms) for event in events]))


@router.delete("/history", response_model=ForgottenAnswer, responses=problems(409, 503))
async def forget_history(request: Request, user_id: Annotated[Id, Query()]) -> Response:
    """Removes what is stored of a user."""
    return answer(ForgottenAnswer(user_id, await Service.of(request).need_histories().forget(user_id)))


@router.get("/users/{user_id}/history", response_model=HistoryAnswer, responses=problems(409, 503))
async def read_user_history(request: Request, user_id: Annotated[Id, Path()], limit: Limit = 100_000) -> Response:
    """As `/v1/history`, for ids without a slash."""
    return await read_history(request, user_id, limit)


@router.delete("/users/{user_id}/history", response_model=ForgottenAnswer, responses=problems(409, 503))
async def forget_user_history(request: Request, user_id: Annotated[Id, Path()]) -> Response:
    """As `/v1/history`, for ids without a slash."""
    return await forget_history(request, user_id)
