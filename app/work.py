"""What the inference thread can be asked to do: one class per kind of entry, each with its own way to run a batch."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.retrieval import Candidates, Rows, Want

ResultT = TypeVar("ResultT")
Doubles = npt.NDArray[np.float64]


class Urgency(IntEnum):
    """The classes of the queue, most urgent first. LIGHT and SHADOW have no work in this version."""

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

    @classmethod
    def of(cls, bundle: Bundle, rows: Sequence[int], want: Want) -> Recommendation:
        """rows: the whole history; its cost is that of the window that encoder and ranker will read."""
        window = HistoryBatch.of([rows]).windowed(bundle.manifest.max_history, bundle.manifest.jump)
        encoded = max(1, bundle.encoder.token_counts(window)[0])
        # Each request has candidates of its own, so equal histories do not share what a ranker reads.
        ranked = bundle.ranker.token_counts(window)[0] if bundle.ranker and want.rerank else 0
        key = window.rows.numpy().tobytes()
        return cls(bundle, encoded + ranked, key, window.rows, want, own_tokens=ranked)

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
        found = bundle.search(vectors_BD, [entry.want for entry in entries])
        searched = time.perf_counter()
        ranked = bundle.rank(distinct if alike else distinct.select(place_of), found)
        times = StageTimes(encoded - started, searched - encoded, time.perf_counter() - searched)
        return [Found(candidates, times, len(places)) for candidates in ranked]


@dataclass(frozen=True, slots=True, eq=False)
class Similar(Work[Candidates]):
    """Items nearest to one item by cosine, itself left out."""

    urgency: ClassVar[Urgency] = Urgency.TEXT
    row: int
    k: int

    @classmethod
    def of(cls, bundle: Bundle, row: int, k: int) -> Similar:
        return cls(bundle, 1, None, row, k)

    @classmethod
    def run(cls, bundle: Bundle, batch: Sequence[Work[Candidates]]) -> list[Candidates]:
        return [nearest(bundle, entry.row, entry.k) for entry in batch if isinstance(entry, Similar)]


def nearest(bundle: Bundle, row: int, k: int) -> Candidates:
    """float32 over all items finds those that may belong to the answer; float64 decides, ties by row."""
    vectors_ND = bundle.index.vectors_ND
    inner_N = (torch.from_numpy(vectors_ND) @ torch.from_numpy(vectors_ND[row])).numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine_N = np.nan_to_num(inner_N / np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND)), neginf=0, posinf=0)
    cosine_N[row] = -np.inf
    count = min(k + 16, len(cosine_N))
    near: Rows = np.argpartition(-cosine_N, count - 1)[:count].astype(np.int64)
    near = near[near != row]
    exact = _cosines(vectors_ND[near].astype(np.float64), vectors_ND[row].astype(np.float64))
    order = np.lexsort((near, -exact))[:k]
    want = Want(k, rerank=False, excluded_rows=np.array([row], dtype=np.int64))
    return Candidates(want, near[order], exact[order], exhausted=len(order) < k)


def _cosines(vectors_KD: Doubles, query_D: Doubles) -> Doubles:
    """0 where a vector is zero: it points nowhere, so nothing is near it."""
    norms_K = np.linalg.norm(vectors_KD, axis=1) * np.linalg.norm(query_D)
    cosines_K: Doubles = np.divide(vectors_KD @ query_D, norms_K, out=np.zeros_like(norms_K), where=norms_K > 0)
    return cosines_K
