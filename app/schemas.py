"""The wire types: what requests may say (pydantic, strict) and what answers say (dataclasses, written as they are)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

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
    explain, timeout_ms: accepted and checked, without effect yet.
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


class LabelRequest(_Request):
    """expected_generation: move the label only if nobody has moved one since this generation was read."""

    version: VersionName
    expected_generation: Annotated[int, Field(ge=0, le=2**53)] | None = None


Fallback = Literal["popular"]
FallbackReason = Literal["new_user", "empty_history", "unknown_items", "history_unavailable"]


@dataclass(frozen=True, slots=True)
class ItemOut:
    """score: 7 significant digits, comparable within one version and one answer without a fallback."""

    item_id: str
    score: float
    rank: int
    title: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds of each stage; `total` is from the request's admission to its answer."""

    queue: float = 0.0
    encode: float = 0.0
    search: float = 0.0
    rank: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class RecommendAnswer:
    """exhausted: fewer than k items exist under the filters. unknown_items: ids that this version does not know."""

    request_id: str
    version: str
    label: Literal["live", "previous"]
    family: str
    items: list[ItemOut]
    unknown_items: list[str]
    fallback: Fallback | None
    fallback_reason: FallbackReason | None
    exhausted: bool
    timings_ms: Timings


@dataclass(frozen=True, slots=True)
class ProblemOut:
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None = None
    errors: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """Exactly one of answer and problem."""

    status: int
    answer: RecommendAnswer | None = None
    problem: ProblemOut | None = None


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    results: list[BatchEntry]


@dataclass(frozen=True, slots=True)
class RefusedEvent:
    index: int
    problem: ProblemOut


@dataclass(frozen=True, slots=True)
class EventsAnswer:
    accepted: int
    duplicate: int
    old: int
    refused: list[RefusedEvent]


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    item_id: str
    timestamp: int


@dataclass(frozen=True, slots=True)
class HistoryAnswer:
    """events: oldest first, times in milliseconds since 1970."""

    user_id: str
    events: list[HistoryEvent]


@dataclass(frozen=True, slots=True)
class ForgottenAnswer:
    user_id: str
    forgotten: int


@dataclass(frozen=True, slots=True)
class CatalogItem:
    item_id: str
    title: str
    text: str | None
    categories: list[str]
    popularity: int


@dataclass(frozen=True, slots=True)
class ItemsAnswer:
    version: str
    items: list[CatalogItem]
    unknown: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ItemAnswer:
    version: str
    item: CatalogItem


@dataclass(frozen=True, slots=True)
class SimilarAnswer:
    """score: cosine of the item vectors."""

    version: str
    item_id: str
    items: list[ItemOut]


@dataclass(frozen=True, slots=True)
class AliveAnswer:
    status: Literal["alive"]


@dataclass(frozen=True, slots=True)
class ReadyAnswer:
    """degraded: why another version than the wanted one answers."""

    status: Literal["ready"]
    version: str
    generation: int
    degraded: str | None


@dataclass(frozen=True, slots=True)
class ServingOut:
    """generation: of the labels that this process fulfils."""

    generation: int
    live: str
    previous: str | None
    degraded: str | None


@dataclass(frozen=True, slots=True)
class LabelAnswer:
    wanted: dict[str, Any]
    serving: ServingOut | None


@dataclass(frozen=True, slots=True)
class ModelOut:
    """state, reason: in this process. bytes: on disk. metrics: as the manifest holds them."""

    version: str
    family: str
    encoder: str
    dim: int
    items: int
    max_history: int
    base: str | None
    bytes: int
    catalogue_at: str
    labels: list[str]
    state: str
    reason: str | None
    warnings: list[str]
    metrics: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ModelsAnswer:
    models: list[ModelOut]
    wanted: dict[str, Any]
    serving: ServingOut | None
