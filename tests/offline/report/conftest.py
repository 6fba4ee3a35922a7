"""A page made of drawn ranks: every section has something in it, and no model was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offline.claims import Claim
from offline.compare.arms import ARMS, BY_NAME
from offline.compare.cold import ColdRow
from offline.compare.contrasts import judge
from offline.compare.null_world import null_world
from offline.compare.plan import Plan
from offline.compare.recommendation import Candidate, Evidence, recommend
from offline.compare.results import NULL_ASKED, NULL_WORLDS, Provenance, Results
from offline.compare.rows import Row, rows_of
from offline.compare.scores import ArmScores, Costs
from offline.compare.settings import Settings, data_of
from offline.compare.targets import Reached, targets_of
from offline.compare.temporal_buckets import Bucket

COSTS = Costs(
    encode_ms_p50=1.0,
    encode_ms_p99=2.0,
    encode_cpu_ms=1.5,
    request_ms_p50=3.0,
    request_ms_p99=4.0,
    request_cpu_ms=3.5,
    index_bytes=1_000_000,
    bundle_bytes=30_000_000,
    memory_bytes=20_000_000,
    tokens_per_item=1.0,
)
BESIDE = [
    {"what": f"{name} minus b", "value": 0.1, "low": -0.1, "high": 0.3, "unit": "AULC"} for name in ("e4srec", "ilora")
]
PROBED = {
    "arm": "contriever",
    "aulc": 0.8,
    "low": 0.7,
    "high": 0.9,
    "runs": 9,
    "runs_that_reach_95_percent_of_sasrec": 2,
    "cpu_seconds_to_95_percent_of_sasrec": None,
    "share_within_5_percent_of_best": 0.5,
    "best_learning_rate": 1e-3,
    "loss_spikes_per_run": 0.5,
    "curves": [{"learning_rate": 1e-3, "targets": [100, 1000], "mrr": [0.01, 0.05]}],
}
DETAILS: dict[str, object] = {"beside": BESIDE, "arms": [PROBED]}
HOSTILE = 'Amélie <script>alert("1")</script> | & "Co"'


def _scores() -> dict[str, ArmScores]:
    world = null_world(3)
    curve = [
        {"epoch": e, "targets": 900.0 * e, "tokens": 950.0 * e, "seconds": 30.0 * e, "ndcg@10": 0.1 + e / 100}
        for e in (1.0, 2.0)
    ]
    for at, (name, scores) in enumerate(world.items()):
        costs = COSTS.model_copy(update={"request_cpu_ms": 1.0 + at})
        given = {
            "costs": costs,
            "version": f"2026-{name}",
            "curve": curve,
            "train_seconds": 240.0,
            "lists": {"coverage@10": 0.5, "gini@10": 0.8},
        }
        given |= {"log": {"beta": 0.5}} if BY_NAME[name].beside else {}
        metas = tuple(meta.model_copy(update=given | {"seed": seed}) for seed, meta in enumerate(scores.metas))
        world[name] = replace(scores, metas=metas, kept_SE=scores.ranks_SE)
    lucky = np.random.default_rng(0).random(world["e4srec"].ranks_SE.shape) < 0.3
    world["e4srec"] = replace(world["e4srec"], ranks_SE=np.where(lucky, 1, world["e4srec"].ranks_SE).astype(np.int32))
    return world


@pytest.fixture(scope="session")
def results() -> Results:
    world = _scores()
    rows = [row for s in world.values() for row in rows_of(s, draws=200, costs=s.metas[0].costs)]
    temporal = [replace(row, protocol="temporal") for row in rows if row.seen_removed]
    warm = {row.arm: row for row in rows if row.seen_removed}
    judged = judge(world, draws=500)
    cold = [
        ColdRow(name, BY_NAME[name].variant, BY_NAME[name].llm, 3, 0.3, 0.2, 0.4, 0.05, 0.1, 0.02, against)
        for name, against in (("tfidf-knn", None), ("contriever", (0.1, 0.05, 0.15)))
    ]
    candidates = tuple(_candidate(row) for row in warm.values() if row.role != "control")
    winners = ("e4srec",)
    claims = [
        Claim(
            1, "iLoRA is hard to train", "AULC", 0.1, 0.05, 0.15, 0.05, 5, "supported", "Supported: so it is.", DETAILS
        ),
        Claim(2, HOSTILE, "AULC", None, None, None, None, 0, "not measured", "Not measured: no runs.", {}),
    ]
    return Results(
        recommendation=recommend(Evidence(candidates, 0.2, winners, "sasrec")),
        rows=rows + temporal,
        contrasts=judged,
        claims=claims,
        targets=targets_of(Reached("ml-100k", warm, judged, cold, 0.3, 4)),
        cold=cold,
        buckets=[Bucket("user new", 0.6, {row.arm: 0.1 for row in temporal}), Bucket("item new", 0.0, {})],
        new_items=0.2,
        curves={name: list(scores.metas[0].curve) for name, scores in world.items()},
        neighbours={"sasrec": {HOSTILE: ["B", "C"]}, "e4srec": {HOSTILE: ["B", "C"]}, "contriever": {HOSTILE: ["D"]}},
        tuned={"sasrec": {"dropout": 0.5}},
        missing={"ilora-common-id": "there is no such family"},
        provenance=Provenance(
            "python -m offline compare",
            "ml-100k",
            "f" * 64,
            "last-10",
            True,
            10.0,
            8,
            5,
            ("2026-01-01", "2026-01-02"),
            3,
        ),
    )


def _candidate(row: Row) -> Candidate:
    return Candidate(row.arm, row.llm, row.ndcg10, row.low, row.costs["request_cpu_ms"], row.arm == "contriever")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    data, headline, shared = data_of("ml-100k")
    settings = Settings(data, headline, shared, seeds=5, minutes=10, trials=8, hours=8, jobs=2, report=tmp_path)
    (tmp_path / NULL_WORLDS).write_text(json.dumps(NULL_ASKED | {"claimed": 4}))
    return Plan(settings, ARMS, (headline,), (), 0, {})


Write = Callable[[Results], Path]
