"""Synthetic worlds that test the measurements: an effect is planted, or there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import scipy.stats

from offline.claims.inputs import ColdDraw, Extras, OrderScores, Reranking, Rows, TwinWins
from offline.claims.probe_runs import ProbeRun
from offline.claims.twin_events import TwinEvents
from offline.datasets.interactions import Interactions
from offline.evaluation.metrics import Floats, gains
from offline.splits.protocols import split
from offline.splits.sequences import Queries, Split

SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """Ranks of one arm, as the claims read them."""

    ranks_SE: Rows
    users_E: Rows

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(range(len(self.ranks_SE)))


def interactions_of(sequences: Sequence[Sequence[int]], titles: Sequence[str]) -> Interactions:
    """One user per sequence of item rows."""
    lengths = [len(sequence) for sequence in sequences]
    items = len(titles)
    frame = pl.DataFrame(
        {
            "item_id": [f"i{row}" for row in range(items)],
            "title": list(titles),
            "text": pl.Series([None] * items, dtype=pl.String),
            "categories": pl.Series([[]] * items, dtype=pl.List(pl.String)),
            "year": pl.Series([None] * items, dtype=pl.Int64),
        }
    )
    return Interactions(
        name="world",
        fingerprint="world",
        user_ids=tuple(f"u{user}" for user in range(len(sequences))),
        items=frame,
        users=np.repeat(np.arange(len(sequences), dtype=np.int32), lengths),
        item_rows=np.concatenate([np.array(sequence, dtype=np.int32) for sequence in sequences]),
        times_ms=np.arange(sum(lengths), dtype=np.int64),
    )


def sequels(*, pairs: int = 30, users: int = 120, seed: int = 0) -> Split:
    """Films and sequels of nearly the same title. What was chosen just before tells which of the two comes next.

    Rows 2k and 2k + 1 are the pair k, rows 2 * pairs + 2k and + 1 what leads to each. The first is the more popular one
    in even pairs, the sequel in odd ones; a user sees one of a pair, so that the other can be recommended.
    """
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("bcdfgklmnprstvz"), 12)) for _ in range(3 * pairs)]
    titles = [f"{words[k]} part {part}" for k in range(pairs) for part in ("i", "ii")] + words[pairs:]
    sequences = []
    for _ in range(users):
        sequence: list[int] = []
        for k in rng.permutation(pairs):
            popular = int(k) % 2
            which = popular if rng.random() < 0.8 else 1 - popular
            sequence += [2 * pairs + 2 * int(k) + which, 2 * int(k) + which]
        sequences.append(sequence)
    return split(interactions_of(sequences, titles), "last-10")


CLUSTERS, CLUSTER, RECENT = 6, 40, 10


def long_interest(*, users: int = 240, seed: int = 0) -> Split:
    """20 items of a long-term cluster, then 10 of another; every second user's last event returns to the first.

    So the long-term cluster is visible only before position -10. Item row // 40 is the cluster.
    """
    rng = np.random.default_rng(seed)
    sequences = []
    for user in range(users):
        old, new = rng.permutation(CLUSTERS)[:2]
        of_old = old * CLUSTER + rng.permutation(CLUSTER)
        of_new = new * CLUSTER + rng.permutation(CLUSTER)
        last = of_old[20] if user % 2 == 0 else of_new[RECENT]
        sequences.append([*of_old[:20].tolist(), *of_new[:RECENT].tolist(), int(last)])
    return split(interactions_of(sequences, [f"t{row}" for row in range(CLUSTERS * CLUSTER)]), "leave-one-out")


def cold_items(
    *, noise: dict[str, float], events: int = 400, items: int = 60, runs: int = 5, seed: int = 0
) -> ColdDraw:
    """Cold items whose text says beside which items they are chosen: the target is the one nearest to what was chosen.

    noise: arm -> how blurred it reads the text (0 is perfect); each run reads it differently.
    """
    rng = np.random.default_rng(seed)
    text_CD = rng.standard_normal((items, 12))
    targets = rng.integers(0, items, events).astype(np.int32)
    wanted_ED = text_CD[targets] + 1.2 * rng.standard_normal((events, 12))
    users = rng.integers(0, events // 4, events).astype(np.int32)
    arms = {}
    for arm, blur in noise.items():
        ranks = []
        for _ in range(runs):
            scores_EC = wanted_ED @ (text_CD + blur * rng.standard_normal(text_CD.shape)).T
            ranks.append(1 + (scores_EC > scores_EC[np.arange(events), targets][:, None]).sum(axis=1))
        arms[arm] = Ranked(np.stack(ranks).astype(np.int32), users)
    return ColdDraw(targets, among=arms)


def equal_arms(
    names: Sequence[str], users: Rows, *, rng: np.random.Generator, runs: int = len(SEEDS), spread: float = 0.02
) -> dict[str, Ranked]:
    """Families that differ by chance only: users are easy or hard for all alike, runs better or worse by luck.

    Runs of one family mostly agree about an event: where they did not, resampling users and runs would count the same
    noise twice, and the measurements would be silent for that reason.
    """
    of_user = rng.beta(4, 8, int(users.max(initial=0)) + 1)
    arms = {}
    for name in names:
        chance_SE = agreeing((runs, len(users)), rng=rng)
        level_SE = np.clip(of_user[users] + spread * rng.standard_normal((runs, 1)), 0.01, 1)
        ranks_SE = np.where(chance_SE < level_SE, 1 + np.floor(10 * chance_SE / level_SE), 0)
        arms[name] = Ranked(ranks_SE.astype(np.int32), users)
    return arms


def agreeing(shape: tuple[int, int], *, rng: np.random.Generator, shared: float = 0.9) -> Floats:
    """Uniform [S, E] numbers whose rows are alike: `shared` of their variance is the event's own."""
    common_E, own_SE = rng.standard_normal(shape[1]), rng.standard_normal(shape)
    uniform: Floats = scipy.stats.norm.cdf(np.sqrt(shared) * common_E + np.sqrt(1 - shared) * own_SE)
    return uniform


def equal_probes(names: Sequence[str], *, rng: np.random.Generator, users: int = 90) -> tuple[ProbeRun, ...]:
    """Trainings of equal ease."""
    events_U, easy_U = rng.integers(10, 200, users), rng.beta(2, 20, users)
    runs = []
    for arm in ("sasrec", *names):
        own_U = easy_U + 0.02 * rng.standard_normal(users)
        for rate in (None,) if arm == "sasrec" else (1e-4, 3e-4, 1e-3):
            for seed in range(3):
                level_U = np.clip(own_U + 0.005 * rng.standard_normal(users), 0, 1)
                of_users = [(int(n), float(n * q), float(n * q)) for n, q in zip(events_U, level_U, strict=True)]
                mean = float((events_U * level_U).sum() / events_U.sum())
                runs.append(
                    ProbeRun(
                        arm=arm,
                        learning_rate=rate,
                        seed=seed,
                        targets=[1, 2],
                        mrr=[mean, mean],
                        cpu_seconds=[1.0, 2.0],
                        users=of_users,
                        losses=[2.0, 1.0],
                    )
                )
    return tuple(runs)


WARM = (
    *("sasrec", "ease-recency", "e4srec", "e4srec-random", "e4srec-sum", "e4srec-id", "e4srec-text", "contriever"),
    *("contriever-random", "contriever-id", "llm2vec", "llm2vec-mean", "llm2vec-last", "llamarec", "ilora-sasrec"),
    *("ilora", "ilora-common-text"),
)


def nothing_to_find(queries: Queries, twins: TwinEvents, *, seed: int = 0) -> tuple[dict[str, Ranked], Extras]:
    """The null world: inputs of all thirteen claims in which no claim holds."""
    rng = np.random.default_rng(seed)
    users = queries.users
    warm = equal_arms(WARM, users, rng=rng)
    cold_users: Rows = rng.integers(0, 60, 200).astype(np.int32)
    targets: Rows = rng.integers(0, 20, 200).astype(np.int32)
    among = equal_arms(("contriever", "llm2vec", "tfidf-knn", "sasrec-regression"), cold_users, rng=rng)
    chance = [(agreeing((len(SEEDS), len(twins.events)), rng=rng) < 0.5).astype(np.float64) for _ in range(2)]
    read = [
        gains(arm.ranks_SE, "ndcg@10")
        for arm in equal_arms(("true", "all", "but last"), users, rng=rng, spread=0.0).values()
    ]
    extras = Extras(
        cold={"cold-items-0": ColdDraw(targets, among=among)},
        twins=TwinWins(twins, {"e4srec": chance[0], "contriever": chance[1]}),
        order={"e4srec": OrderScores(*read)},
        probe=equal_probes(("ilora-sasrec", "ilora", "contriever", "e4srec-sum"), rng=rng),
        cpu_ms={"llamarec": 50.0, "sasrec": 1.0, "ease-recency": 0.1, "contriever": 20.0, "e4srec": 20.0},
        reranking=Reranking(weight=0.5, recall=0.6),
    )
    return warm, extras
