from __future__ import annotations

from dataclasses import replace

import numpy as np

from offline.compare.contrasts import best_without_llm, judge
from offline.compare.null_world import null_world
from offline.compare.scores import ArmScores

World = dict[str, ArmScores]


def _better(scores: ArmScores, *, share: float = 0.3) -> ArmScores:
    """A share of the misses become hits."""
    rng = np.random.default_rng(0)
    lucky = rng.random(scores.ranks_SE.shape[1]) < share
    return replace(scores, ranks_SE=np.where(lucky & (scores.ranks_SE == 0), 3, scores.ranks_SE).astype(np.int32))


def _of(world: World, family: str, base: str, *, draws: int = 1_000) -> tuple[bool, bool, str]:
    judged = next(j for j in judge(world, draws=draws) if (j.contrast.family, j.contrast.base) == (family, base))
    return judged.primary, judged.claimed, judged.why_not


def test_a_real_difference_is_claimed_and_a_control_s_is_only_shown() -> None:
    world = null_world(0)
    world["e4srec"], world["e4srec-random"] = _better(world["e4srec"]), _better(world["e4srec-random"])
    assert _of(world, "e4srec", "sasrec") == (True, True, "")
    assert _of(world, "e4srec-random", "sasrec") == (False, False, "")
    assert _of(world, "contriever", "sasrec")[1:] == (False, "")


def test_few_seeds_claim_nothing_unless_each_took_long() -> None:
    world = null_world(0, seeds=3)
    world["e4srec"] = _better(world["e4srec"])
    assert _of(world, "e4srec", "sasrec") == (True, False, "3 seeds; a claim needs 5")
    slow = [meta.model_copy(update={"train_seconds": 1_300.0}) for meta in world["e4srec"].metas]
    world["e4srec"] = replace(world["e4srec"], metas=tuple(slow))
    assert _of(world, "e4srec", "sasrec") == (True, True, "")


def test_closed_forms_need_no_seeds() -> None:
    world = null_world(0)
    world["e4srec"] = _better(world["e4srec"])
    assert len(world["ease-recency"].seeds) == 1
    assert _of(world, "e4srec", "ease-recency") == (True, True, "")


def test_every_arm_meets_the_baselines_the_best_of_them_and_its_twin() -> None:
    world = null_world(0)
    world["sasrec+ease"] = replace(_better(world["sasrec"]), arm="sasrec+ease")
    assert best_without_llm(world) == "sasrec+ease"
    bases = {j.contrast.base for j in judge(world, draws=200) if j.contrast.family == "ilora"}
    assert bases == {"sasrec", "ease-recency", "sasrec+ease", "ilora-random"}
    assert judge({}, draws=200) == []


def test_a_row_beside_another_is_drawn_with_its_seeds() -> None:
    """Runs that differ by seed alone, the same way on both sides: paired, that cancels."""
    world = null_world(0)
    luck = np.arange(5)[:, None] > 2
    base = np.where(
        luck, np.where(world["sasrec"].ranks_SE == 0, 8, world["sasrec"].ranks_SE), world["sasrec"].ranks_SE
    )
    for name in ("sasrec", "e4srec", "contriever"):
        world[name] = replace(world[name], ranks_SE=base.astype(np.int32))
    spread = {j.contrast.family: j.contrast.detectable for j in judge(world, draws=500) if j.contrast.base == "sasrec"}
    assert spread["e4srec"] == 0
    assert spread["contriever"] > 0.01
