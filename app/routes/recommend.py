"""Recommendations, one request or a hundred."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter, Depends, Request
from pydantic_core import to_json
from starlette.responses import Response

from app import keys
from app.answers import BatchAnswer, BatchEntry, ProblemOut, RecommendAnswer, Timings
from app.edge import Trace
from app.errors import Problem, problem_of
from app.routes.wire import answer, dropped_when_gone, problems, read, takes
from app.routing import Routing
from app.schemas import BatchRequest, RecommendRequest
from app.service import Service
from app.turns import FEW_ITEMS

TOGETHER = 20  # requests of one call that are looked at, and queued, in one turn of the loop
router = APIRouter(prefix="/v1", tags=["recommend"], dependencies=[Depends(keys.client)])


@router.post(
    "/recommend",
    response_model=RecommendAnswer,
    responses=problems(404, 409, 429, 500, 503, 504, body=True),
    openapi_extra=takes(RecommendRequest),
)
async def recommend(request: Request) -> Response:
    """The k items that this user most likely wants next."""
    service, trace = Service.of(request), Trace.of(request.scope)
    ask = await read(request, RecommendRequest)
    with service.versions.current().held() as routing:
        async with dropped_when_gone(request):
            found = await _answered(service, ask, routing)
    trace.request_id, trace.version = found.request_id, found.version
    return answer(found, headers={"server-timing": _server_timing(found.timings_ms)})


@router.post(
    "/recommend/batch",
    response_model=BatchAnswer,
    responses=problems(503, body=True),
    openapi_extra=takes(BatchRequest),
)
async def recommend_batch(request: Request) -> Response:
    """At most 100 requests, all answered by the same versions, each with its own status."""
    service = Service.of(request)
    asks = await read(request, BatchRequest)
    keys.charge(request, len(asks.requests) - 1)
    with service.versions.current().held() as routing:
        Trace.of(request.scope).version = routing.live.version
        entries: list[asyncio.Task[BatchEntry]] = []
        async with dropped_when_gone(request), asyncio.TaskGroup() as group:
            for start in range(0, len(asks.requests), TOGETHER):
                together = asks.requests[start : start + TOGETHER]
                entries += [group.create_task(_entry(service, ask, routing)) for ask in together]
                await asyncio.sleep(0)
    return await batch_answer([entry.result() for entry in entries])


async def _answered(service: Service, ask: RecommendRequest, routing: Routing) -> RecommendAnswer:
    found = await service.recommender.recommend(ask, routing)
    if service.feedback is not None:
        service.feedback.served(found.request_id, found.version, ask.user_id)
    return found


async def batch_answer(entries: Sequence[BatchEntry]) -> Response:
    """A `BatchAnswer`, written entry by entry: a hundred of a thousand items are a fifth of a second in one piece."""
    written = []
    for entry in entries:
        written.append(to_json(entry))
        if entry.answer is not None and len(entry.answer.items) > FEW_ITEMS:
            await asyncio.sleep(0)
    return Response(b'{"results":[' + b",".join(written) + b"]}", media_type="application/json")


async def _entry(service: Service, ask: RecommendRequest, routing: Routing) -> BatchEntry:
    try:
        return BatchEntry(200, answer=await _answered(service, ask, routing))
    except Exception as error:  # one entry's failure is that entry's answer
        problem: Problem = problem_of(error)
        return BatchEntry(problem.status, problem=ProblemOut(**problem.body()))


def _server_timing(timings: Timings) -> str:
    return (
        f"queue;dur={timings.queue:.2f}, encode;dur={timings.encode:.2f}, "
        f"search;dur={timings.search:.2f}, rank;dur={timings.rank:.2f}"
    )
