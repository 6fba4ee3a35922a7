"""The catalogue of the live version: find, look up, and what is near. And its changes: for all versions."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from app import keys
from app.answers import CatalogItem, ItemAnswer, ItemsAnswer, SimilarAnswer, TextSearchAnswer
from app.errors import Problem
from app.nearest import Similar, TextSearch
from app.recommender import items_out
from app.routes.wire import answer, dropped_when_gone, problems, read, takes
from app.schemas import Id, LookupRequest, SearchRequest, SimilarRequest
from app.service import Service
from app.serving import Serving
from model_store.item_reader import item_reader

router = APIRouter(prefix="/v1", tags=["items"], dependencies=[Depends(keys.client)])


@router.get("/items", response_model=ItemsAnswer, responses=problems(503))
async def search_items(
    request: Request,
    q: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> Response:
    """Items whose title holds every word of `q`, most popular first; without `q` simply the most popular."""
    with Service.of(request).versions.current().held() as routing:
        serving = routing.live.serving
        items = await asyncio.to_thread(lambda: [_item(serving, row) for row in serving.search_titles(q, limit)])
        return answer(ItemsAnswer(routing.live.version, items))


@router.post(
    "/items/lookup", response_model=ItemsAnswer, responses=problems(503, body=True), openapi_extra=takes(LookupRequest)
)
async def lookup_items(request: Request) -> Response:
    """What the catalogue says of each id, in the order given; `unknown` lists those that it does not have."""
    ask = await read(request, LookupRequest)
    with Service.of(request).versions.current().held() as routing:
        serving = routing.live.serving
        rows, unknown = serving.rows(ask.ids)
        items = await asyncio.to_thread(lambda: [_item(serving, row) for row in rows])
        return answer(ItemsAnswer(routing.live.version, items, unknown))


@router.post(
    "/items/similar", response_model=SimilarAnswer, responses=problems(404, 429, 503, 504, body=True),
    openapi_extra=takes(SimilarRequest),
)  # fmt: skip
async def similar_items(request: Request) -> Response:
    """The items nearest to one item by cosine: by inner product the same popular ones would be near everything."""
    service = Service.of(request)
    ask = await read(request, SimilarRequest)
    with service.versions.current().held() as routing:
        serving = routing.live.serving
        row = _row(serving, ask.item_id)
        async with dropped_when_gone(request):
            done = await service.batcher.submit(Similar.of(serving, row, ask.k))
        return answer(SimilarAnswer(routing.live.version, ask.item_id, items_out(serving, done.result)))


@router.post(
    "/search", response_model=TextSearchAnswer, responses=problems(409, 429, 503, 504, body=True),
    openapi_extra=takes(SearchRequest),
)  # fmt: skip
async def search_by_meaning(request: Request) -> Response:
    """The items nearest to a text by what it means, where the live version reads texts; 409 where it does not."""
    service = Service.of(request)
    ask = await read(request, SearchRequest)
    with service.versions.current().held() as routing:
        serving = routing.live.serving
        reader = item_reader(serving.bundle)
        if reader is None or not reader.by_meaning:
            raise Problem("not-possible", f"{routing.live.version} places no item by its text")
        async with dropped_when_gone(request):
            done = await service.batcher.submit(TextSearch.of(serving, ask.text, ask.k))
        return answer(TextSearchAnswer(routing.live.version, items_out(serving, done.result)))


@router.get("/items/{item_id}", response_model=ItemAnswer, responses=problems(404, 503))
async def item(request: Request, item_id: Annotated[Id, Path()]) -> Response:
    """One item. An id that holds a slash goes to `lookup`: it cannot travel in a path."""
    with Service.of(request).versions.current().held() as routing:
        serving = routing.live.serving
        return answer(ItemAnswer(routing.live.version, _item(serving, _row(serving, item_id))))


def _row(serving: Serving, item_id: str) -> int:
    row = serving.row(item_id)
    if row is None:
        raise Problem("unknown-item", f"the live version has no item {item_id!r}")
    return row


def _item(serving: Serving, row: int) -> CatalogItem:
    found = serving.describe(row)
    return CatalogItem(**{name: found[name] for name in CatalogItem.__dataclass_fields__})  # type: ignore[arg-type]
