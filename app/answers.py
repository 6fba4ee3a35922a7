"""What answers say: dataclasses, written to JSON as they are, and described from the same fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Fallback = Literal["popular", "light"]
FallbackReason = Literal["new_user", "empty_history", "unknown_items", "history_unavailable", "overloaded", "swapping"]
AnsweredAs = Literal["live", "previous", "canary", "shadow", "loaded"]


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
    label: AnsweredAs
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
class TextSearchAnswer:
    """score: cosine of where the text and the item stand."""

    version: str
    items: list[ItemOut]


Visibility = Literal["recommendable", "not_yet", "id_family"]


@dataclass(frozen=True, slots=True)
class ChangedItemAnswer:
    """versions: of those in memory here, which show the item as it was put. not_yet: it is stored, and will be shown
    (if the model can place its text). id_family: this version knows items by their ids and can never show it."""

    item_id: str
    versions: dict[str, Visibility]


@dataclass(frozen=True, slots=True)
class RemovedItemAnswer:
    """versions: those in memory here that do not show the item any more."""

    item_id: str
    versions: list[str]


@dataclass(frozen=True, slots=True)
class BulkItem:
    """Exactly one of item, removed and problem."""

    status: int
    item: ChangedItemAnswer | None = None
    removed: RemovedItemAnswer | None = None
    problem: ProblemOut | None = None


@dataclass(frozen=True, slots=True)
class BulkItemsAnswer:
    results: list[BulkItem]


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
