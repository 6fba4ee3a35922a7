"""What the claims are measured on: per-event ranks of each arm, and what some claims need beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from offline.claims.probe_runs import ProbeRun
from offline.claims.twin_events import TwinEvents
from offline.evaluation.metrics import Floats

Rows = npt.NDArray[np.int32]
# Fitted in closed form or not at all: one run is all there is, and says no less than five.
WITHOUT_SEEDS = frozenset({"popularity", "markov", "ease", "ease-recency", "tfidf-knn", "frozen-lm-knn"})


class Scored(Protocol):
    """How the runs of one arm came out: int32 [S, E], 1-based, 0 where the target is not within the depth."""

    @property
    def seeds(self) -> tuple[int, ...]: ...

    @property
    def ranks_SE(self) -> Rows: ...

    @property
    def users_E(self) -> Rows: ...


@dataclass(frozen=True, slots=True, eq=False)
class ColdDraw:
    """One draw of cold items. targets: int32[E] item rows. among, full: arm -> ranks among the cold items alone, and
    against the whole catalogue, of the same events."""

    targets: Rows
    among: Mapping[str, Scored]
    full: Mapping[str, Scored] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class OrderScores:
    """NDCG@10 [S, E] of one arm with true histories, and the means over shuffles of them (`shuffled.shuffled_values`).

    all: the whole history shuffled. but_last: all but its last item.
    """

    true_SE: Floats
    all_SE: Floats
    but_last_SE: Floats


@dataclass(frozen=True, slots=True, eq=False)
class TwinWins:
    """events: `twin_events.twin_events` of the queries. wins: arm -> [S, P], `twin_events.twin_wins` of each run."""

    events: TwinEvents
    wins: Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class Reranking:
    """weight: of the ranker, chosen on validation (mean over seeds). recall: of the retriever within the window."""

    weight: float
    recall: float


@dataclass(frozen=True, slots=True)
class Extras:
    """Each may be absent: the claims that need it are then not measured.

    cold: the draws of `cold-items`. twins: who outranks whom.
    order: arm -> scores. probe: the runs of `probe.run_probe`. cpu_ms: arm -> CPU ms of one request.
    reranking: of the arm `llamarec`. minutes: arm -> minutes of one training run.
    """

    cold: Mapping[str, ColdDraw] = field(default_factory=dict)
    twins: TwinWins | None = None
    order: Mapping[str, OrderScores] = field(default_factory=dict)
    probe: tuple[ProbeRun, ...] = ()
    cpu_ms: Mapping[str, float] = field(default_factory=dict)
    reranking: Reranking | None = None
    minutes: Mapping[str, float] = field(default_factory=dict)
