"""What requests may say: pydantic, strict, nothing extra."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from model_store.manifest import VersionName

MAX_IDS = 10_000
MAX_ID_BYTES = 256
_LATEST_MS = 2**53  # exact in every JSON reader; an event from the future is refused by itself, not its whole call
_RFC_3339 = re.compile(r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})$", re.ASCII)


def _short_enough(value: str) -> str:
    if not value.isascii() and len(value.encode()) > MAX_ID_BYTES:
        raise ValueError(f"longer than {MAX_ID_BYTES} bytes of UTF-8")
    return value


def _milliseconds(value: Any) -> Any:
    """Integer milliseconds as they are; RFC 3339 text as milliseconds since 1970."""
    if not isinstance(value, str):
        return value
    if not _RFC_3339.match(value):
        raise ValueError("neither integer milliseconds nor RFC 3339 with an offset")
    try:
        # timestamp() is exact to the millisecond; a date before 1970 is caught by the lower bound.
        return int(datetime.fromisoformat(value.upper().replace(" ", "T")).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise ValueError("no such date") from None


# Control characters never name anything; lone surrogates are refused by the JSON parser.
Id = Annotated[
    str,
    Field(min_length=1, max_length=MAX_ID_BYTES, pattern=r"^[^\u0000-\u001f\u007f-\u009f]+$"),
    AfterValidator(_short_enough),
]
Ids = Annotated[tuple[Id, ...], Field(max_length=MAX_IDS)]
Timestamp = Annotated[
    int,
    BeforeValidator(_milliseconds),
    Field(ge=0, le=_LATEST_MS),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": _LATEST_MS, "description": "milliseconds since 1970"},
                {"type": "string", "format": "date-time"},
            ]
        }
    ),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RecommendRequest(_Request):
    """`history` present (even []) is the history, oldest first, whole; the stored one of `user_id` then only excludes.

    allow_ids: [] = nothing is allowed; absent = no limit. categories: any of them. Deny beats allow.
    timeout_ms: for how long an answer is of use. What could not be in time is answered by something lighter, or refused
    at once; what is let in and not answered by then gets 504. explain: accepted and checked, without effect yet.
    """

    user_id: Id | None = None
    history: Ids | None = None
    k: Annotated[int, Field(ge=1, le=1000)] = 10
    exclude_seen: bool = True
    exclude_ids: Ids = ()
    allow_ids: Ids | None = None
    categories: Annotated[tuple[Id, ...], Field(max_length=100)] | None = None
    version: VersionName | None = None
    rerank: bool = True
    strict: bool = False
    explain: bool = False
    timeout_ms: Annotated[int, Field(ge=1, le=60_000)] = 5000


class BatchRequest(_Request):
    requests: Annotated[tuple[RecommendRequest, ...], Field(min_length=1, max_length=100)]


class EventIn(_Request):
    """timestamp: absent = the time of arrival; then only `event_id` makes a retry idempotent."""

    user_id: Id
    item_id: Id
    timestamp: Timestamp | None = None
    event_id: Id | None = None
    request_id: Id | None = None


class EventsRequest(_Request):
    events: Annotated[tuple[EventIn, ...], Field(min_length=1, max_length=1000)]


class LookupRequest(_Request):
    ids: Annotated[tuple[Id, ...], Field(max_length=1000)]


class SimilarRequest(_Request):
    item_id: Id
    k: Annotated[int, Field(ge=1, le=1000)] = 10


class SearchRequest(_Request):
    text: Annotated[str, Field(min_length=1, max_length=2000)]
    k: Annotated[int, Field(ge=1, le=1000)] = 10


Title = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"[^\s]")]
Text = Annotated[str, Field(max_length=20_000)]


class ItemRequest(_Request):
    """title, text: what a person reads, and what encoders read that read texts."""

    title: Title
    text: Text | None = None
    categories: Annotated[tuple[Id, ...], Field(max_length=100)] = ()


class BulkItemIn(ItemRequest):
    """remove: instead of title, text and categories, which are then not given."""

    item_id: Id
    title: Title | None = None  # type: ignore[assignment]  # not of an item that is removed
    remove: bool = False

    @model_validator(mode="after")
    def _put_or_remove(self) -> Self:
        if self.remove == (self.title is not None) or (self.remove and (self.text or self.categories)):
            raise ValueError("give a title, or remove alone")
        return self


class BulkItemsRequest(_Request):
    items: Annotated[tuple[BulkItemIn, ...], Field(min_length=1, max_length=1000)]


class LabelRequest(_Request):
    """expected_generation: move the label only if nobody has moved one since this generation was read.

    traffic: of a canary, and of nothing else: its share of the users. by: who asks, for the audit log.
    """

    version: VersionName
    traffic: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    expected_generation: Annotated[int, Field(ge=0, le=2**53)] | None = None
    by: Annotated[Id, Field(max_length=80)] | None = None
