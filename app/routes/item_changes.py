"""Items put and removed by an operator."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from app import keys
from app.answers import BulkItem, BulkItemsAnswer, ChangedItemAnswer, ProblemOut, RemovedItemAnswer
from app.errors import problem_of
from app.item_changes import ItemChanges
from app.routes.wire import answer, problems, read, takes
from app.routing import Loaded
from app.schemas import BulkItemIn, BulkItemsRequest, Id, ItemRequest
from app.service import Service

AT_ONCE = 32  # of one bulk call: they share fsyncs, and leave connections to others
router = APIRouter(prefix="/v1/items", tags=["items"], dependencies=[Depends(keys.admin)])


@router.put(
    "", response_model=ChangedItemAnswer, responses=problems(403, 409, 503, body=True), openapi_extra=takes(ItemRequest)
)
async def put_item(request: Request, item_id: Annotated[Id, Query(alias="id")]) -> Response:
    """A new or changed item. Stored when this answers, and in results within a second; 409 only when no version that
    is served here can ever show it."""
    service = Service.of(request)
    ask = await read(request, ItemRequest)
    changes = service.need_items()
    with service.versions.current().held() as routing:
        return answer(await changes.put(item_id, ask, routing.loaded()))


@router.delete("", response_model=RemovedItemAnswer, responses=problems(403, 404, 409, 503))
async def remove_item(request: Request, item_id: Annotated[Id, Query(alias="id")]) -> Response:
    """Removes an item from what every version shows, also later ones, until it is put again."""
    service = Service.of(request)
    changes = service.need_items()
    with service.versions.current().held() as routing:
        return answer(await changes.remove(item_id, routing.loaded()))


@router.put(
    "/{item_id}",
    response_model=ChangedItemAnswer,
    responses=problems(403, 409, 503, body=True),
    openapi_extra=takes(ItemRequest),
)
async def put_item_by_path(request: Request, item_id: Annotated[Id, Path()]) -> Response:
    """As with `?id=`, for ids without a slash."""
    return await put_item(request, item_id)


@router.delete("/{item_id}", response_model=RemovedItemAnswer, responses=problems(403, 404, 409, 503))
async def remove_item_by_path(request: Request, item_id: Annotated[Id, Path()]) -> Response:
    """As with `?id=`, for ids without a slash."""
    return await remove_item(request, item_id)


@router.post(
    "/bulk",
    response_model=BulkItemsAnswer,
    responses=problems(403, 409, 503, body=True),
    openapi_extra=takes(BulkItemsRequest),
)
async def change_items(request: Request) -> Response:
    """At most 1,000 items to put or (`remove`) to remove, each with its own status."""
    service = Service.of(request)
    asks = (await read(request, BulkItemsRequest)).items
    changes = service.need_items()
    turns = asyncio.Semaphore(AT_ONCE)
    with service.versions.current().held() as routing:
        loaded = routing.loaded()
        # Of one item named twice the later entry must win, as if they had been sent one after the other.
        rounds = _rounds(asks)
        results: dict[int, BulkItem] = {}
        for places in rounds:
            found = await asyncio.gather(*(_change(changes, asks[at], loaded, turns) for at in places))
            results |= zip(places, found, strict=True)
    return answer(BulkItemsAnswer([results[at] for at in range(len(asks))]))


async def _change(
    changes: ItemChanges, ask: BulkItemIn, loaded: Sequence[Loaded], turns: asyncio.Semaphore
) -> BulkItem:
    try:
        async with turns:
            if ask.remove:
                return BulkItem(200, removed=await changes.remove(ask.item_id, loaded))
            assert ask.title is not None  # the schema has looked
            put = ItemRequest(title=ask.title, text=ask.text, categories=ask.categories)
            return BulkItem(200, item=await changes.put(ask.item_id, put, loaded))
    except Exception as error:  # one entry's failure is that entry's answer
        problem = problem_of(error)
        return BulkItem(problem.status, problem=ProblemOut(**problem.body()))


def _rounds(asks: Sequence[BulkItemIn]) -> list[list[int]]:
    """Places of the entries, each item at most once in a round, in order."""
    rounds: list[list[int]] = []
    seen: dict[str, int] = {}
    for at, ask in enumerate(asks):
        number = seen.get(ask.item_id, -1) + 1
        seen[ask.item_id] = number
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(at)
    return rounds
