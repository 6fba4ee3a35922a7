"""The catalogue of the live version: find, look up, and what is near."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from app import keys
from app.answers import CatalogItem, ItemAnswer, ItemsAnswer, SimilarAnswer
from app.errors import Problem
from app.recommender import items_out
from app.routes.wire import answer, dropped_when_gone, problems, read, takes
from app.schemas import Id, LookupRequest, SimilarRequest
from app.service import Service
from app.work import Similar
from model_store.catalog import ItemCatalog

router = APIRouter(prefix="/v1/items", tags=["items"], dependencies=[Depends(keys.client)])


@router.get("", response_model=ItemsAnswer, responses=problems(503))
async def search_items(
    request: Request,
    q: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> Response:
    """Items whose title holds every word of `q`, most popular first; without `q` simply the most popular."""
    with Service.of(request).versions.current().held() as routing:
        catalog = routing.live.bundle.catalog
        items = await asyncio.to_thread(lambda: [_item(catalog, row) for row in catalog.search_titles(q, limit)])
        return answer(ItemsAnswer(routing.live.version, items))


@router.post(
    "/lookup", response_model=ItemsAnswer, responses=problems(503, body=True), openapi_extra=takes(LookupRequest)
)
async def lookup_items(request: Request) -> Response:
    """What the catalogue says of each id, in the order given; `unknown` lists those that it does not have."""
    ask = await read(request, LookupRequest)
    with Service.of(request).versions.current().held() as routing:
        catalog = routing.live.bundle.catalog
        rows, unknown = catalog.rows(ask.ids)
        items = await asyncio.to_thread(lambda: [_item(catalog, row) for row in rows])
        return answer(ItemsAnswer(routing.live.version, items, unknown))


@router.post(
    "/similar", response_model=SimilarAnswer, responses=problems(404, 429, 503, body=True),
    openapi_extra=takes(SimilarRequest),
)  # fmt: skip
async def similar_items(request: Request) -> Response:
    """The items nearest to one item by cosine: by inner product the same popular ones would be near everything."""
    service = Service.of(request)
    ask = await read(request, SimilarRequest)
    with service.versions.current().held() as routing:
        bundle = routing.live.bundle
        row = _row(bundle.catalog, ask.item_id)
        async with dropped_when_gone(request):
            done = await service.batcher.submit(Similar.of(bundle, row, ask.k))
        return answer(SimilarAnswer(routing.live.version, ask.item_id, items_out(bundle.catalog, done.result)))


@router.get("/{item_id}", response_model=ItemAnswer, responses=problems(404, 503))
async def item(request: Request, item_id: Annotated[Id, Path()]) -> Response:
    """One item. An id that holds a slash goes to `lookup`: it cannot travel in a path."""
    with Service.of(request).versions.current().held() as routing:
        catalog = routing.live.bundle.catalog
        return answer(ItemAnswer(routing.live.version, _item(catalog, _row(catalog, item_id))))


def _row(catalog: ItemCatalog, item_id: str) -> int:
    row = catalog.row(item_id)
    if row is None:
        raise Problem("unknown-item", f"the live version has no item {item_id!r}")
    return row


def _item(catalog: ItemCatalog, row: int) -> CatalogItem:
    found = catalog.describe(row)
    return CatalogItem(**{name: found[name] for name in CatalogItem.__dataclass_fields__})  # type: ignore[arg-type]
