"""Is it alive, is it ready, what does it measure."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from app import keys
from app.answers import AliveAnswer, ReadyAnswer
from app.errors import not_ready
from app.routes.wire import answer, problems
from app.service import Service

router = APIRouter(tags=["health"])


@router.get("/livez", response_model=AliveAnswer)
async def livez() -> Response:
    """The process answers: restart it only when this fails."""
    return answer(AliveAnswer("alive"))


@router.get("/readyz", response_model=ReadyAnswer, responses={503: problems(503)[503]})
async def readyz(request: Request) -> Response:
    """Send requests here only while this answers 200."""
    service = Service.of(request)
    reason = service.not_ready()
    if reason is not None:
        raise not_ready(reason)
    routing = service.versions.current()
    return answer(ReadyAnswer("ready", routing.live.version, routing.generation, routing.degraded))


@router.get(
    "/metrics",
    dependencies=[Depends(keys.scraper)],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, 401: problems(401)[401]},
)
async def metrics(request: Request) -> Response:
    """Prometheus text."""
    return Response(Service.of(request).metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})
