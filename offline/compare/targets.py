"""What this comparison was meant to reach, and whether it did: one line each, in the order they were set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from offline.compare.cold import REGRESSION, ColdRow
from offline.compare.contrasts import Judged, judged_of
from offline.compare.rows import Row

LLM_TWINS = ("ilora", "e4srec", "contriever", "llm2vec", "llamarec")
FUSIONS = ("e4srec+ease", "ilora+ease", "sasrec+contriever+ease", "ilora+contriever+ease")
MOST_OF_A_STEP = 1.2
BARE_BY_OUR_PRODUCTS = "the bare pass by the products of the step"


@dataclass(frozen=True, slots=True)
class Target:
    """value: in words and figures, None where it was not measured here; then held is None too."""

    name: str
    target: str
    value: str | None = None
    held: bool | None = None


@dataclass(frozen=True)
class Reached:
    """warm: arm -> its row under the headline protocol, seen items as the data set says. training_step: what was timed
    -> its step over the bare forward and backward pass of the same tokens; empty where `make bench` has not written it.
    """

    dataset: str
    warm: Mapping[str, Row]
    judged: Sequence[Judged]
    cold: Sequence[ColdRow]
    retriever_recall: float | None = None
    null_claims: int | None = None
    training_step: Mapping[str, float] = field(default_factory=dict)

    def contrast(self, arm: str, base: str) -> Judged | None:
        return judged_of(self.judged, arm, base)

    def cold_row(self, arm: str) -> ColdRow | None:
        return next((row for row in self.cold if row.arm == arm), None)

    def placed_row(self, arm: str) -> ColdRow | None:
        """With the regression from item text where that was measured: what an owner with new items would train."""
        return self.cold_row(arm + REGRESSION) or self.cold_row(arm)


def targets_of(reached: Reached) -> list[Target]:
    on_films = [
        *(_not_below(reached, arm) for arm in ("ilora", "e4srec")),
        _better_by_five(reached),
        _fusion(reached, "Best fusion that holds an LLM", ".131 or more", 0.131),
        _above_fusion(reached),
        _fusion(reached, "The same, stretch", ".138 or more", 0.138),
        _twins(reached),
        _above_retriever(reached),
        *(_cold_above(reached, arm) for arm in ("contriever", "llm2vec")),
        *(_cold_stretch(reached, arm) for arm in ("contriever", "llm2vec")),
        *(_cold_full(reached, arm) for arm in ("contriever", "llm2vec")),
        _cold_regression(reached),
    ]
    on_products = [
        _best_llm(reached),
        _hit_rate(reached, "Best row, HR@10", ".095 or more", 0.095),
        _hit_rate(reached, "The same, stretch", ".1002 or more (BSARec's)", 0.1002),
    ]
    films, products = (reached.dataset == name for name in ("ml-100k", "amazon-beauty"))
    return [
        *(target if films else _elsewhere(target, "ml-100k") for target in on_films),
        *(target if products else _elsewhere(target, "amazon-beauty") for target in on_products),
        _null_world(reached),
        _training_step(reached),
    ]


def _elsewhere(target: Target, dataset: str) -> Target:
    return Target(f"{target.name} ({dataset})", target.target)


def _judged(name: str, target: str, found: Judged | None, holds: Callable[[Judged], bool]) -> Target:
    if found is None:
        return Target(name, target)
    c = found.contrast
    interval = f"{c.relative:+.1%} ({c.relative_low:+.1%} to {c.relative_high:+.1%}), {c.seeds} seeds"
    return Target(name, target, interval, holds(found))


def _not_below(reached: Reached, arm: str) -> Target:
    row, found = reached.warm.get(arm), reached.contrast(arm, "sasrec")
    name, target = f"{arm} against sasrec", "interval above -5 %; a row that equals sasrec (beta = 0) does not count"
    if row is not None and row.same_as is not None:
        return Target(name, target, f"equals {row.same_as}: beta = 0 in every seed", held=False)
    return _judged(name, target, found, lambda j: j.contrast.relative_low > -0.05)


def _better_by_five(reached: Reached) -> Target:
    found = [j for arm in ("ilora", "e4srec") if (j := reached.contrast(arm, "sasrec"))]
    best = max(found, key=lambda j: j.contrast.relative, default=None)
    return _judged(
        "The better of ilora and e4srec against sasrec",
        "+5 % with the interval above 0",
        best,
        lambda j: j.contrast.relative >= 0.05 and j.contrast.relative_low > 0,
    )


def _best_fusion(reached: Reached) -> Row | None:
    """A fusion whose language models are silent holds none."""
    rows = [row for name in FUSIONS if (row := reached.warm.get(name)) is not None and row.same_as is None]
    return max(rows, key=lambda row: row.ndcg10, default=None)


def _fusion(reached: Reached, name: str, target: str, least: float) -> Target:
    best = _best_fusion(reached)
    if best is None:
        return Target(name, target)
    return Target(name, target, f"{best.arm}: {best.ndcg10:.4f}", round(best.ndcg10, 4) >= least)


def _above_fusion(reached: Reached) -> Target:
    best = _best_fusion(reached)
    found = None if best is None else reached.contrast(best.arm, "sasrec+ease")
    return _judged(
        "The same against sasrec+ease, stretch", "interval above 0", found, lambda j: j.contrast.relative_low > 0
    )


def _twins(reached: Reached) -> Target:
    name, target = "Each LLM row beside its randomly initialised twin", "all of them"
    there = [arm for arm in LLM_TWINS if arm in reached.warm]
    if not there:
        return Target(name, target)
    with_twin = [arm for arm in there if f"{arm}-random" in reached.warm]
    return Target(
        name, target, f"{len(with_twin)} of {len(there)}: {', '.join(with_twin)}", len(with_twin) == len(there)
    )


def _above_retriever(reached: Reached) -> Target:
    row, found = reached.warm.get("llamarec"), reached.contrast("llamarec", "sasrec")
    name, target = "llamarec against its retriever", "above it, with a ranker's weight w > 0; G, w and cost stated"
    if row is not None and row.same_as is not None:
        return Target(name, target, "w = 0 in every seed: it is its retriever", held=False)
    judged = _judged(name, target, found, lambda j: j.contrast.relative > 0)
    if row is None or judged.value is None:
        return judged
    gain = _share_of_possible_gain(found, reached)
    weights = "w = " + ", ".join(f"{choice['weight']:g}" for choice in row.choices if "weight" in choice)
    cost = f"{row.costs.get('request_cpu_ms', float('nan')):.0f} ms of CPU per request"
    return Target(name, target, f"{judged.value}; {gain}; {weights}; {cost}", judged.held)


def _share_of_possible_gain(found: Judged | None, reached: Reached) -> str:
    """G = (N_rerank - N_retriever) / (R@K - N_retriever): of what perfect reranking would gain."""
    base, recall = reached.warm.get("sasrec"), reached.retriever_recall
    if found is None or base is None or recall is None or recall <= base.ndcg10:
        return "G not measured"
    return f"G = {found.contrast.difference / (recall - base.ndcg10):+.3f}"


def _cold_above(reached: Reached, arm: str) -> Target:
    row = reached.placed_row(arm)
    name, target = f"{arm}, recall@10 among new items, against TF-IDF", "above it by its interval"
    if row is None or row.against_nearest is None:
        return Target(name, target)
    difference, low, high = row.against_nearest
    value = f"{row.recall:.3f}; {difference:+.3f} ({low:+.3f} to {high:+.3f}){_by_itself(reached, row, arm)}"
    return Target(name, target, value, low > 0)


def _by_itself(reached: Reached, row: ColdRow, arm: str) -> str:
    """What the text tower alone reaches, where the figure is of more than that."""
    alone = reached.cold_row(arm)
    return f"; its text tower alone {alone.recall:.3f}" if alone is not None and alone is not row else ""


def _cold_stretch(reached: Reached, arm: str) -> Target:
    row = reached.placed_row(arm)
    name, target = f"{arm}, recall@10 among new items, stretch", ".40 or more"
    return Target(name, target) if row is None else Target(name, target, f"{row.recall:.3f}", row.recall >= 0.40)


def _cold_full(reached: Reached, arm: str) -> Target:
    row, nearest = reached.placed_row(arm), reached.cold_row("tfidf-knn")
    name, target = f"{arm}, recall@10 of new items in the whole catalogue", "not below TF-IDF's"
    if row is None or nearest is None:
        return Target(name, target)
    value = f"{row.full_recall:.3f} against {nearest.full_recall:.3f}"
    return Target(name, target, value, row.full_recall >= nearest.full_recall)


def _cold_regression(reached: Reached) -> Target:
    row = reached.cold_row("sasrec-regression")
    name, target = "sasrec with regression, recall@10 among new items", ".30 or more"
    return Target(name, target) if row is None else Target(name, target, f"{row.recall:.3f}", row.recall >= 0.30)


def _best_llm(reached: Reached) -> Target:
    rows = [row for row in reached.warm.values() if row.llm and row.role == "family"]
    best = max(rows, key=lambda row: row.ndcg10, default=None)
    found = None if best is None else reached.contrast(best.arm, "sasrec")
    return _judged(
        "Best LLM row against sasrec",
        "1.03 x or more with the interval above 0",
        found,
        lambda j: j.contrast.relative >= 0.03 and j.contrast.relative_low > 0,
    )


def _hit_rate(reached: Reached, name: str, target: str, least: float) -> Target:
    best = max(reached.warm.values(), key=lambda row: row.hr10, default=None)
    if best is None:
        return Target(name, target)
    return Target(name, target, f"{best.arm}: {best.hr10:.4f}", round(best.hr10, 4) >= least)


def _null_world(reached: Reached) -> Target:
    name, target = "Null world: all families equal", "claims something in at most 10 of 100 worlds"
    claims = reached.null_claims
    return Target(name, target) if claims is None else Target(name, target, f"{claims} of 100", claims <= 10)


def _training_step(reached: Reached) -> Target:
    name = "Training step, iLoRA and E4SRec with `sum`"
    target = f"within {MOST_OF_A_STEP} x the bare forward + backward (`make bench`)"
    step = reached.training_step
    if not step:
        return Target(name, target)
    steps = {what: ratio for what, ratio in step.items() if what != BARE_BY_OUR_PRODUCTS}
    told = "; ".join(f"{what}: {ratio:.2f} x" for what, ratio in steps.items())
    if bare := step.get(BARE_BY_OUR_PRODUCTS):
        # Where products go through another library than torch would take, the target can be read in two ways.
        ratios = ", ".join(f"{ratio / bare:.2f}" for ratio in steps.values())
        told += f" (over a bare pass by the same products: {ratios})"
    return Target(name, target, told, all(ratio <= MOST_OF_A_STEP for ratio in steps.values()))
