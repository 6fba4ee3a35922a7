"""The arms of a comparison: one row of the page each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from offline.compare.arm import SCORER, Arm, Role, Where
from offline.run_config import RunRefused

ALL: tuple[Where, ...] = ("warm", "temporal", "cold")
_IN_TIME: tuple[Where, ...] = ("warm", "temporal")
_SASREC: dict[str, str | tuple[str, ...]] = {"items_from": "sasrec"}
_RANDOM: dict[str, Any] = {"lm": {"random_init": True}}
# Seeds of a row that stands beside a family's own. What a claim's primary contrast reads has all five, for fewer claim
# nothing; rows that only complete a table of variants have one.
_FEWER = 3
PARTNER = "ease-partner"  # what fusions hold: the best EASE alone is not the best beside another model
_WEIGHTS_MINUTES = 0.2  # nothing is trained, weights are searched on validation
_CLOSED: dict[str, Any] = {"seeds": 1, "train_minutes": 0.1, "score_minutes": 0.3}


def _scorer(name: str, variant: str, *, where: tuple[Where, ...] = ALL) -> Arm:
    return Arm(name, SCORER, variant, "baseline", seeds=1, where=where, train_minutes=0.0, score_minutes=0.05)


def _ilora(
    name: str, variant: str, *, where: tuple[Where, ...] = ("warm",), seeds: int = _FEWER, **changes: Any
) -> Arm:
    in_its_space = changes.get("space") == "sasrec"
    return Arm(
        name,
        "ilora",
        variant,
        "variant",
        llm=True,
        changes=changes,
        dropped=("item_tower",) if in_its_space else (),
        parents=_SASREC,
        seeds=seeds,
        where=where,
        beside="sasrec" if changes.get("residual") else None,
    )


def _e4srec(history_input: str, variant: str) -> Arm:
    changes = {"residual": False, "train_items": True, "history_input": history_input}
    name = f"e4srec-{history_input.removesuffix('_vector')}"
    return Arm(
        name,
        "e4srec",
        variant,
        "variant",
        llm=True,
        changes=changes,
        dropped=("branch_drop",),
        parents=_SASREC,
    )


def _pooled(name: str, variant: str, *, seeds: int = 1, **changes: Any) -> Arm:
    return Arm(name, "llm2vec", variant, "variant", llm=True, changes=changes, seeds=seeds)


def _pointwise(name: str, variant: str, role: Role, *, vectors_from: str, **more: Any) -> Arm:
    return Arm(
        name,
        "llamarec",
        variant,
        role,
        llm=True,
        changes={"ranker": "pointwise"},
        bare=True,
        parents={"retriever": "sasrec", "vectors_from": vectors_from},
        beside="sasrec",
        train_minutes=_WEIGHTS_MINUTES,
        score_minutes=2.0,
        **more,
    )


def _placed(family: str) -> Arm:
    return Arm(
        f"{family}-regression",
        family,
        "new items between its text tower and a regression from their text",
        "variant",
        llm=True,
        changes={"cold_start": "regression"},
        where=("cold",),
    )


def _fusion(name: str, variant: str, parts: tuple[str, ...], *, llm: bool, role: Role = "fusion", **more: Any) -> Arm:
    return Arm(
        name,
        "fused",
        variant,
        role,
        llm=llm,
        parents={"parts": parts},
        beside="sasrec",
        train_minutes=_WEIGHTS_MINUTES,
        **more,
    )


ARMS: tuple[Arm, ...] = (
    _scorer("popularity", "the most chosen items for everybody"),
    _scorer("markov", "what followed the last item, then popularity"),
    Arm("ease", "ease", "the whole history alike", "baseline", changes={"tau": None}, where=ALL, **_CLOSED),
    Arm("ease-recency", "ease", "recent items weigh more", "baseline", where=ALL, **_CLOSED),
    Arm("sasrec", "sasrec", "full softmax, all positions", "baseline", where=ALL),
    Arm(
        "sasrec+sasrec",
        "fused",
        "two seeds of SASRec",
        "control",
        parents={"parts": ("sasrec", "sasrec@1")},
        train_minutes=_WEIGHTS_MINUTES,
    ),
    Arm(
        PARTNER,
        "ease",
        "recent items weigh more, chosen beside SASRec: the part of fusions",
        "variant",
        parents={"beside": "sasrec"},
        train_minutes=_WEIGHTS_MINUTES,
        score_minutes=0.3,
    ),
    _fusion("sasrec+ease", "SASRec and recency-weighted EASE", ("sasrec", PARTNER), llm=False, where=_IN_TIME),
    _fusion(
        "sasrec+sasrec+ease",
        "two seeds of SASRec and recency-weighted EASE",
        ("sasrec", "sasrec@1", PARTNER),
        llm=False,
    ),
    Arm(
        "sasrec-taught",
        "sasrec",
        "taught by SASRec and EASE together",
        "control",
        changes={"distillation": 1.0},
        parents={"teacher": "sasrec+ease"},
        seeds=_FEWER,
    ),
    Arm(
        "sasrec-taught-by-ilora",
        "sasrec",
        "taught by iLoRA: no language model in service",
        "variant",
        llm=True,
        parents={"teacher": "ilora"},
        seeds=_FEWER,
    ),
    Arm(
        "ilora",
        "ilora",
        "alone, common space, items by ID",
        "family",
        llm=True,
        parents=_SASREC,
        where=ALL,
        twin="ilora-random",
    ),
    Arm(
        "ilora-random",
        "ilora",
        "as iLoRA, random weights",
        "control",
        llm=True,
        changes=_RANDOM,
        parents=_SASREC,
        seeds=_FEWER,
    ),
    _ilora("ilora-common-text", "alone, common space, items by text", item_tower="text", where=("warm", "cold")),
    _ilora("ilora-common-text+id", "alone, common space, items by both", item_tower="text+id", seeds=1),
    _ilora("ilora-sasrec", "alone, in SASRec's space", space="sasrec", seeds=5),
    _ilora("ilora-residual", "beside SASRec, in its space", space="sasrec", residual=True, branch_drop=1.0),
    Arm(
        "e4srec",
        "e4srec",
        "beside SASRec (residual)",
        "family",
        llm=True,
        parents=_SASREC,
        where=ALL,
        beside="sasrec",
        twin="e4srec-random",
    ),
    Arm(
        "e4srec-random",
        "e4srec",
        "as E4SRec, random weights",
        "control",
        llm=True,
        changes=_RANDOM,
        parents=_SASREC,
        beside="sasrec",
    ),
    Arm(
        "e4srec-taught",
        "e4srec",
        "alone, ID and text on both sides, taught by SASRec and EASE",
        "variant",
        llm=True,
        changes={"residual": False, "train_items": True, "item_tower": "id+text", "distillation": 1.0},
        dropped=("branch_drop",),
        parents={"items_from": "sasrec", "teacher": "sasrec+ease"},
        seeds=_FEWER,
    ),
    _e4srec("sum", "alone, reads ID and text"),
    _e4srec("id", "alone, reads IDs"),
    _e4srec("text_vector", "alone, reads text"),
    Arm("contriever", "contriever", "items by text", "family", llm=True, where=ALL, twin="contriever-random"),
    Arm(
        "contriever-random",
        "contriever",
        "as Contriever, random weights",
        "control",
        llm=True,
        changes=_RANDOM,
    ),
    Arm(
        "contriever-id",
        "contriever",
        "items by ID",
        "variant",
        llm=True,
        changes={"item_tower": "id"},
        parents=_SASREC,
    ),
    Arm(
        "llm2vec",
        "llm2vec",
        "bidirectional, weighted mean",
        "family",
        llm=True,
        where=ALL,
        twin="llm2vec-random",
    ),
    Arm(
        "llm2vec-random",
        "llm2vec",
        "as LLM2Vec, random weights",
        "control",
        llm=True,
        changes=_RANDOM,
        seeds=_FEWER,
    ),
    _pooled("llm2vec-mean", "bidirectional, mean", pooling="mean"),
    _pooled("llm2vec-last", "bidirectional, last token", seeds=5, pooling="last"),
    _pooled("llm2vec-causal", "causal, weighted mean", causal=True),
    _pooled("llm2vec-causal-mean", "causal, mean", causal=True, pooling="mean"),
    _pooled("llm2vec-causal-last", "causal, last token", causal=True, pooling="last"),
    # On a CPU's budget the verbalizer does not lift its retriever, so the other ranker stands for the family.
    _pointwise(
        "llamarec",
        "SASRec finds, Contriever's inner products rank (pointwise)",
        "family",
        vectors_from="contriever",
        twin="llamarec-random",
    ),
    _pointwise(
        "llamarec-random",
        "as LlamaRec, by vectors of Contriever with random weights",
        "control",
        vectors_from="contriever-random",
        seeds=_FEWER,
    ),
    Arm(
        "llamarec-verbalizer",
        "llamarec",
        "SASRec finds, letters rank (verbalizer)",
        "variant",
        llm=True,
        changes={"ranker": "verbalizer"},
        parents={"retriever": "sasrec"},
        seeds=1,
        beside="sasrec",
        score_minutes=2.0,
        parts=4,
    ),
    _fusion(
        "e4srec+ease",
        "E4SRec and recency-weighted EASE",
        ("e4srec", PARTNER),
        llm=True,
        twin="e4srec-random+ease",
        where=_IN_TIME,
    ),
    _fusion(
        "e4srec-random+ease",
        "as E4SRec + EASE, random weights",
        ("e4srec-random", PARTNER),
        llm=True,
        role="control",
    ),
    _fusion(
        "ilora+ease",
        "iLoRA and recency-weighted EASE",
        ("ilora", PARTNER),
        llm=True,
        twin="ilora-random+ease",
        where=_IN_TIME,
    ),
    _fusion(
        "ilora-random+ease",
        "as iLoRA + EASE, random weights",
        ("ilora-random", PARTNER),
        llm=True,
        role="control",
        seeds=_FEWER,
    ),
    _fusion(
        "sasrec+contriever+ease",
        "SASRec, Contriever and recency-weighted EASE",
        ("sasrec", "contriever", PARTNER),
        llm=True,
    ),
    _fusion(
        "ilora+contriever+ease",
        "iLoRA, Contriever and recency-weighted EASE",
        ("ilora", "contriever", PARTNER),
        llm=True,
    ),
    Arm(
        "sasrec-regression",
        "sasrec",
        "new items by regression from their text",
        "baseline",
        changes={"cold_start": "regression"},
        where=("cold",),
    ),
    Arm(
        "sasrec+ease-regression",
        "fused",
        "new items by regression from their text",
        "baseline",
        changes={"cold_start": "regression"},
        parents={"parts": ("sasrec", PARTNER)},
        where=("cold",),
        train_minutes=_WEIGHTS_MINUTES,
    ),
    Arm(
        "e4srec-regression",
        "e4srec",
        "new items by regression from their text",
        "variant",
        llm=True,
        changes={"cold_start": "regression"},
        parents=_SASREC,
        where=("cold",),
    ),
    _placed("contriever"),
    _placed("llm2vec"),
    _scorer("tfidf-knn", "nearest item texts by TF-IDF", where=("cold",)),
    _scorer("frozen-lm-knn", "nearest item texts by the untrained language model", where=("cold",)),
    _scorer("random", "any item", where=("cold",)),
)
BY_NAME = {arm.name: arm for arm in ARMS}
ALWAYS = ("popularity", "markov", "ease", "ease-recency", "sasrec")
# What a family must beat before its language model means anything: as many models together that need none.
CONTROLS = ("sasrec+sasrec", "sasrec+ease", "sasrec+sasrec+ease")


def chosen(families: Iterable[str], names: Iterable[str]) -> tuple[Arm, ...]:
    """The arms asked for (all of these families with the controls, and those named; everything when neither is given),
    the baselines, and what they need, in the page's order. RunRefused for a name that no arm or family has.
    """
    families, names = list(families), list(names)
    known = {arm.family for arm in ARMS if arm.is_bundle}
    for asked, allowed, what in ((families, known, "--families"), (names, set(BY_NAME), "--arms")):
        unknown = [name for name in asked if name not in allowed]
        if unknown:
            raise RunRefused(f"{what} {', '.join(unknown)}: known are {', '.join(sorted(allowed))}")
    if not families and not names:
        return ARMS
    wanted = set(ALWAYS) | set(names) | {arm.name for arm in ARMS if arm.family in families}
    wanted |= {arm.name for arm in ARMS if families and not arm.is_bundle} | set(CONTROLS if families else ())
    while missing := {p for name in wanted for p in BY_NAME[name].parent_arms()} - wanted:
        wanted |= missing
    return tuple(arm for arm in ARMS if arm.name in wanted)
