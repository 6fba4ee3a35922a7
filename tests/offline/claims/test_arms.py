"""Claims about arms on the same warm events: what is planted is found, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from offline.claims import worlds
from offline.claims.claim import Finding
from offline.claims.contrasts import Arms
from offline.claims.inputs import OrderScores, Reranking
from offline.claims.item_side import id_and_text, projector
from offline.claims.pretraining import pretraining
from offline.claims.reading_order import reading_order
from offline.claims.replacement import replacement
from offline.claims.reranking import reranking
from offline.claims.warm_items import warm_items
from offline.evaluation.metrics import gains
from offline.splits.sequences import Split

USERS = np.repeat(np.arange(80, dtype=np.int32), 10)


def _arms(*equal: str, better: tuple[str, ...] = (), minutes: dict[str, float] | None = None, runs: int = 5) -> Arms:
    """`better`: a third of their misses are hits at the first place."""
    rng = np.random.default_rng(0)
    arms = worlds.equal_arms((*equal, *better), USERS, rng=rng, runs=runs)
    for name in better:
        ranks = arms[name].ranks_SE
        arms[name] = worlds.Ranked(np.where((ranks == 0) & (rng.random(ranks.shape[1]) < 0.3), 1, ranks), USERS)
    return Arms.of(arms, minutes=minutes or {}, draws=1_000, seed=0)


def _sign(found: Finding) -> int:
    """1 where the whole interval is above 0, -1 below, 0 where it holds it."""
    assert found.estimate is not None
    return int(found.estimate.low > 0) - int(found.estimate.high < 0)


def test_the_projector_turned_around() -> None:
    assert _sign(projector(_arms("ilora-sasrec", better=("ilora",)))) == 1
    assert _sign(projector(_arms("ilora", better=("ilora-sasrec",)))) == -1
    assert _sign(projector(_arms("ilora", "ilora-sasrec"))) == 0
    assert "ilora-sasrec" in projector(_arms("ilora")).missing


def test_id_and_text_must_beat_the_better_of_both() -> None:
    assert _sign(id_and_text(_arms("e4srec-id", "e4srec-text", better=("e4srec-sum",)))) == 1
    assert _sign(id_and_text(_arms("e4srec-sum", "e4srec-text", better=("e4srec-id",)))) == -1
    assert _sign(id_and_text(_arms("e4srec-id", better=("e4srec-text", "e4srec-sum")))) == 0
    assert id_and_text(_arms("e4srec-id", "e4srec-sum")).holds_back == "there are no runs of e4srec-text"


def test_a_replacement_must_beat_all_three() -> None:
    others = ("e4srec", "llm2vec", "llamarec")
    best = replacement(_arms(*others, better=("contriever",)), cold=[], training=[])
    assert _sign(best) == 1
    assert not best.holds_back
    assert _sign(replacement(_arms("contriever", *others[1:], better=("e4srec",)), cold=[], training=[])) == -1
    assert _sign(replacement(_arms("contriever", *others), cold=[], training=[])) == 0
    cold = [{"arm": "contriever", "value": 0.4}, {"arm": "tfidf-knn", "value": 0.3}]
    training = [{"arm": "contriever", "sd_over_seeds_at_best_rate": 0.01}]
    rows: Any = replacement(_arms("contriever", "e4srec"), cold=cold, training=training).details
    assert cold[0] in rows["beside"]
    assert cold[1] not in rows["beside"]
    assert rows["training_spread"] == {"contriever": 0.01}


def test_pretrained_against_random_is_the_mean_of_two_families() -> None:
    random = ("e4srec-random", "contriever-random")
    assert _sign(pretraining(_arms(*random, better=("e4srec", "contriever")))) == 1
    assert _sign(pretraining(_arms(*random, "e4srec", "contriever"))) == 0
    one = pretraining(_arms("e4srec-random", "contriever-random", "contriever", better=("e4srec",)))
    rows: Any = one.details["beside"]
    assert one.estimate is not None
    assert one.estimate.value == pytest.approx(np.mean([row["value"] for row in rows]))


def test_three_runs_are_enough_where_one_costs_over_twenty_minutes() -> None:
    arms = ("e4srec", "e4srec-random")
    quick, slow = (pretraining(_arms(*arms, runs=3, minutes={"e4srec": minutes})) for minutes in (10.0, 25.0))
    assert (quick.seeds, quick.least_seeds, slow.least_seeds) == (3, 5, 3)


def test_a_second_stage_pays_above_its_retriever_and_every_cheaper_row() -> None:
    made, ms = Reranking(weight=0.3, recall=0.8), {"llamarec": 50.0, "sasrec": 1.0, "ease": 0.1, "big": 90.0}
    pays = reranking(_arms("sasrec", "ease", "big", better=("llamarec",)), made, ms)
    assert _sign(pays) == 1
    assert not pays.holds_back
    assert pays.details["G"] == pytest.approx(pays.estimate.value / (0.8 - 0.2), rel=0.5)  # type: ignore[union-attr]
    dominated = reranking(_arms("sasrec", "llamarec", better=("ease",)), made, ms)
    assert _sign(dominated) == -1
    assert "(ease)" in dominated.contrast
    assert dominated.holds_back.endswith("ease reach at least as much at no more CPU time")
    whole, once = (_arms("sasrec", "llamarec", better=("ease",), runs=runs) for runs in (5, 1))
    lucky = replace(whole, scores={**whole.scores, "tiny": once.scores["ease"]}, runs={**whole.runs, "tiny": (0,)})
    found = reranking(lucky, made, ms | {"tiny": 0.1})
    assert (found.seeds, found.contrast) == (dominated.seeds, dominated.contrast), "one run contradicts nothing"
    dearer = reranking(_arms("sasrec", better=("llamarec", "big")), made, ms)
    assert _sign(dearer) == 1
    assert not dearer.holds_back
    assert "nobody measured the CPU time" in reranking(_arms("sasrec", better=("llamarec",)), made, {}).holds_back


def test_a_weight_of_zero_claims_nothing() -> None:
    same = reranking(_arms("sasrec", "llamarec"), Reranking(weight=0.0, recall=0.8), {})
    assert same.estimate is None
    assert "by construction" in same.missing


def test_order_is_read_where_shuffled_histories_cost_something() -> None:
    rng = np.random.default_rng(1)
    true = gains(worlds.equal_arms(("f",), USERS, rng=rng)["f"].ranks_SE, "ndcg@10")
    half = true * (rng.random(true.shape) < 0.7)
    reads = {"e4srec": OrderScores(true, half, true), "sasrec": OrderScores(true, half, half)}
    found = reading_order(reads, USERS, draws=1_000, seed=0)
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(0.3, abs=0.05)
    assert _sign(found) == 1
    rows: Any = {row["what"]: row["value"] for row in found.details["beside"]}  # type: ignore[attr-defined]
    assert rows["e4srec, all but the last item shuffled"] == pytest.approx(0.0, abs=1e-12)
    assert rows["e4srec minus sasrec, whole history shuffled"] == pytest.approx(0.0, abs=1e-12)
    others = [np.random.default_rng(n).permuted(true, axis=1) for n in (2, 3)]
    assert _sign(reading_order({"e4srec": OrderScores(true, *others)}, USERS, draws=1_000, seed=0)) == 0
    assert reading_order({"sasrec": reads["sasrec"]}, USERS, draws=50, seed=0).estimate is None


def test_what_text_loses_is_looked_for_on_well_known_items_alone(sequels: Split) -> None:
    """The ID tower is better on targets of 20 training events or more, and much worse on the others."""
    queries = sequels.test
    counts = sequels.dataset.catalog.popularity[queries.targets]
    warm = counts >= 20
    assert 0.2 < warm.mean() < 0.99
    rng = np.random.default_rng(0)
    arms = worlds.equal_arms(("contriever", "contriever-id"), queries.users, rng=rng)
    ranks = arms["contriever-id"].ranks_SE
    arms["contriever-id"] = worlds.Ranked(
        np.where(warm, np.where(rng.random(len(warm)) < 0.2, 1, ranks), 0).astype(np.int32), queries.users
    )
    found = warm_items(Arms.of(arms, minutes={}, draws=500, seed=0), sequels.dataset, queries)
    assert _sign(found) == 1
    assert found.details["events"] == warm.sum()
    rows: Any = found.details["beside"]
    assert rows[0]["value"] < 0 < rows[-1]["value"]
    equal = worlds.equal_arms(("contriever", "contriever-id"), queries.users, rng=rng)
    assert _sign(warm_items(Arms.of(equal, minutes={}, draws=500, seed=0), sequels.dataset, queries)) == 0


def test_arms_without_randomness_do_not_lack_seeds() -> None:
    arms = _arms("ease", "sasrec")
    alone = replace(arms, scores={"ease": arms.scores["ease"][:1], "sasrec": arms.scores["sasrec"]})
    assert alone.seeds(["ease", "sasrec"]) == 5


def test_a_second_stage_is_set_against_the_very_runs_that_it_reorders() -> None:
    """It has three of the retriever's five runs; the other two were unlucky, which is no gain of the ranker's."""
    arms = _arms("sasrec", "llamarec")
    lucky = np.where(np.arange(5)[:, None] < 3, arms.scores["sasrec"][:1], 0.0)
    scores = {"sasrec": lucky, "llamarec": lucky[:3]}
    few = replace(arms, scores=scores, runs={"sasrec": (0, 1, 2, 3, 4), "llamarec": (0, 1, 2)})
    found = reranking(few, Reranking(weight=0.3, recall=0.8), {}).estimate
    assert found is not None
    assert found.value == found.low == found.high == 0
