"""What the inference thread can be asked to do: one class per kind of entry, each with its own way to run a batch."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Generic, Protocol, TypeVar

import torch

from app.serving import Serving
from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.retrieval import Candidates, Want

ResultT = TypeVar("ResultT")


class Urgency(IntEnum):
    """The classes of the queue, most urgent first."""

    LIGHT = 0
    ANSWER = 1
    TEXT = 2
    SHADOW = 3


@dataclass(frozen=True, slots=True, eq=False)
class Work(ABC, Generic[ResultT]):
    """One entry. Entries of one class and one bundle may run as one batch.

    tokens: what it costs, in tokens that encoder and ranker read. key: entries with equal keys share that cost, all but
    `own_tokens` of it; None shares with none.
    """

    urgency: ClassVar[Urgency]
    bundle: Bundle
    tokens: int
    key: bytes | None
    own_tokens: int = field(default=0, kw_only=True)

    @classmethod
    @abstractmethod
    def run(cls, bundle: Bundle, batch: Sequence[Work[ResultT]]) -> list[ResultT]:
        """Results in the order of the batch. Called on the inference thread only."""


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds that the batch of a request spent in each stage."""

    encode: float
    search: float
    rank: float


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    candidates: Candidates
    seconds: StageTimes
    encoded: int  # histories that the batch encoded


@dataclass(frozen=True, slots=True, eq=False)
class Recommendation(Work[Found]):
    """Encode, search, rank: the three steps of `Bundle.retrieve`, equal histories encoded once."""

    urgency: ClassVar[Urgency] = Urgency.ANSWER
    history: torch.Tensor  # int32 [T], T >= 1, cut to the encoder's window
    want: Want
    serving: Serving

    @classmethod
    def of(cls, bundle: Bundle, rows: Sequence[int], want: Want, *, serving: Serving | None = None) -> Recommendation:
        """rows: the whole history; its cost is that of the window that encoder and ranker will read.

        serving: the bundle with its overlay as this request takes it; by default without changes.
        """
        window = HistoryBatch.of([rows]).windowed(bundle.manifest.max_history, bundle.manifest.jump)
        encoded = max(1, bundle.encoder.token_counts(window)[0])
        # Each request has candidates of its own, so equal histories do not share what a ranker reads.
        ranked = bundle.ranker.token_counts(window)[0] if bundle.ranker and want.rerank else 0
        key = window.rows.numpy().tobytes()
        return cls(bundle, encoded + ranked, key, window.rows, want, serving or Serving.of(bundle), own_tokens=ranked)

    @classmethod
    def run(cls, bundle: Bundle, batch: Sequence[Work[Found]]) -> list[Found]:
        entries = [entry for entry in batch if isinstance(entry, Recommendation)]
        places: dict[bytes | None, int] = {}
        place_of = [places.setdefault(entry.key, len(places)) for entry in entries]
        first = {place: entry.history for place, entry in zip(reversed(place_of), reversed(entries), strict=True)}
        distinct = HistoryBatch.of([first[place] for place in range(len(places))])

        started = time.perf_counter()
        vectors_UD = bundle.encode(distinct).vectors_BD
        encoded = time.perf_counter()
        alike = len(places) == len(entries)
        vectors_BD = vectors_UD if alike else vectors_UD[place_of]
        groups = by_serving(entries)
        found = [(group, group.serving.search(vectors_BD[group.places], group.wants)) for group in groups]
        searched = time.perf_counter()
        ranked: dict[int, Candidates] = {}
        for group, candidates in found:
            histories = distinct if len(groups) == 1 and alike else distinct.select(place_of[b] for b in group.places)
            ranked |= zip(group.places, group.serving.rank(histories, candidates), strict=True)
        times = StageTimes(encoded - started, searched - encoded, time.perf_counter() - searched)
        return [Found(ranked[b], times, len(places)) for b in range(len(entries))]


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Entries of one batch that took the same overlay when they were admitted: places in the batch, and wants."""

    serving: Serving
    places: list[int]
    wants: list[Want]


class OfServing(Protocol):
    @property
    def serving(self) -> Serving: ...
    @property
    def want(self) -> Want: ...


def by_serving(entries: Sequence[OfServing]) -> list[_Group]:
    groups: dict[int, _Group] = {}
    for b, entry in enumerate(entries):
        key = 0 if entry.serving.overlay.changes_nothing else id(entry.serving)
        group = groups.setdefault(key, _Group(entry.serving, [], []))
        group.places.append(b)
        group.wants.append(entry.want)
    return list(groups.values())
