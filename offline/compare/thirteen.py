"""The claims of the page, from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from offline.claims import Claim, ColdDraw, Extras, Reranking, TwinWins, measure_all
from offline.claims.reranking import RERANKED
from offline.claims.twin_events import twin_events
from offline.compare.arms import BY_NAME
from offline.compare.found_versions import FoundVersions
from offline.compare.measured import Measured
from offline.compare.ordering import read_order
from offline.compare.probing import read_probe
from offline.compare.rows import same_as
from offline.compare.scores import ArmScores
from offline.splits.sequences import Split


def claims_of(measured: Measured, found: FoundVersions, *, others: Sequence[float] = (), draws: int) -> list[Claim]:
    """All thirteen; empty where the headline's events do not weigh alike, which no claim is about. A row that equals
    another by construction counts as one that was not measured. others: p of the page's contrasts.
    """
    data = measured.splits[found.settings.headline]
    if data.test.weights is not None:
        return []
    # What is another row by the weights it chose says nothing about its family. Claim 7 asks about the weight itself.
    warm = {name: scores for name, scores in measured.warm.items() if name == RERANKED or same_as(scores) is None}
    extras = Extras(
        cold=_cold(measured),
        twins=_twins(warm, data),
        order=read_order(warm, found),
        probe=read_probe(found),
        cpu_ms=_cpu_ms(measured),
        reranking=_reranking(measured.warm),
        minutes={name: float(np.mean(m)) for name, scores in measured.warm.items() if (m := _minutes(scores))},
    )
    return measure_all(warm, data.dataset, data.test, extras=extras, others=others, draws=draws)


def _cold(measured: Measured) -> dict[str, ColdDraw]:
    draws = {}
    for protocol, arms in measured.cold.items():
        among = {name: replace(s, ranks_SE=s.among_SE) for name, s in arms.items() if s.among_SE is not None}
        if among:
            draws[protocol] = ColdDraw(measured.splits[protocol].test.targets, among=among, full=arms)
    return draws


def _twins(warm: dict[str, ArmScores], data: Split) -> TwinWins | None:
    wins = {name: scores.wins_SP for name, scores in warm.items() if scores.wins_SP is not None}
    return TwinWins(twin_events(data.dataset, data.test), wins) if wins else None


def _cpu_ms(measured: Measured) -> dict[str, float]:
    """Of what could be served: a control is nobody's alternative."""
    served = {name for name in measured.warm if BY_NAME[name].role != "control"}
    return {name: costs.request_cpu_ms for name, costs in measured.costs.items() if name in served}


def _minutes(scores: ArmScores) -> list[float]:
    return [meta.train_seconds / 60 for meta in scores.metas if meta.train_seconds is not None]


def _reranking(warm: dict[str, ArmScores]) -> Reranking | None:
    """recall: of the retriever's list as deep as it was ranked, which is the ranker's window."""
    if RERANKED not in warm or "sasrec" not in warm:
        return None
    weights = [float(meta.log["weight"]) for meta in warm[RERANKED].metas if "weight" in meta.log]
    if not weights:
        return None
    return Reranking(float(np.mean(weights)), recall=float((warm["sasrec"].ranks_SE > 0).mean()))
