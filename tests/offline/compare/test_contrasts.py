from __future__ import annotations

from dataclasses import replace

import numpy as np

from offline.compare.contrasts import adjusted_with, best_without_llm, judge
from offline.compare.null_world import null_world
from offline.compare.rows import same_as
from offline.compare.scores import ArmScores

World = dict[str, ArmScores]


def _better(scores: ArmScores, *, share: float = 0.3) -> ArmScores:
    """A share of the misses become hits."""
    rng = np.random.default_rng(0)
    lucky = rng.random(scores.ranks_SE.shape[1]) < share
    return replace(scores, ranks_SE=np.where(lucky & (scores.ranks_SE == 0), 3, scores.ranks_SE).astype(np.int32))


def _of(world: World, family: str, base: str, *, draws: int = 2_000) -> tuple[bool, bool, str]:
    judged = next(j for j in judge(world, draws=draws) if (j.contrast.family, j.contrast.base) == (family, base))
    return judged.primary, judged.claimed, judged.why_not


def test_claims_on_the_same_page_share_its_chances_to_be_wrong() -> None:
    world = null_world(0)
    world["e4srec"] = _better(world["e4srec"])
    judged = judge(world, draws=2_000)
    claimed = next(j for j in judged if j.claimed)
    alike = {(j.contrast.family, j.contrast.base): j.contrast.p_holm for j in adjusted_with(judged, [], world)}
    assert alike == {(j.contrast.family, j.contrast.base): j.contrast.p_holm for j in judged}
    again = adjusted_with(judged, [1.0] * 1_000, world)
    assert not any(j.claimed for j in again)
    pair = (claimed.contrast.family, claimed.contrast.base)
    found = next(j for j in again if (j.contrast.family, j.contrast.base) == pair)
    assert found.contrast.p == claimed.contrast.p
    assert found.why_not == "within chance among this page's contrasts"


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
    assert bases == {"sasrec", "ease-recency", "sasrec+ease", "sasrec+sasrec+ease", "ilora-random"}
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


def test_a_row_beside_some_runs_of_another_is_compared_with_those() -> None:
    """The runs that nobody added anything to were unlucky; what adds nothing must not look better for it."""
    world = null_world(0)
    base = np.where(np.arange(5)[:, None] < 3, world["sasrec"].ranks_SE[:1], 0).astype(np.int32)
    world["sasrec"] = replace(world["sasrec"], ranks_SE=base)
    world["llamarec"] = replace(
        world["llamarec"], ranks_SE=base[:3], seeds=(0, 1, 2), metas=world["llamarec"].metas[:3]
    )
    found = next(
        j.contrast for j in judge(world, draws=200) if (j.contrast.family, j.contrast.base) == ("llamarec", "sasrec")
    )
    assert found.difference == found.difference_low == found.difference_high == 0


def _fused(world: World, name: str, *weights: list[float]) -> ArmScores:
    metas = tuple(
        meta.model_copy(update={"arm": name, "log": {"weights": list(chosen)}})
        for meta, chosen in zip(world["e4srec"].metas, weights, strict=True)
    )
    return replace(_better(world["e4srec"]), arm=name, metas=metas)


def test_a_fusion_whose_language_model_is_silent_is_shown_as_what_is_left_and_claims_nothing() -> None:
    world = null_world(0)
    world["e4srec+ease"] = _fused(world, "e4srec+ease", *[[0.0, 1.0]] * 5)
    assert same_as(world["e4srec+ease"]) == "ease-partner"
    assert _of(world, "e4srec+ease", "sasrec") == (True, False, "by the weights it chose it is ease-partner")
    world["e4srec+ease"] = _fused(world, "e4srec+ease", [0.5, 0.5], *[[0.0, 1.0]] * 4)
    assert same_as(world["e4srec+ease"]) is None
    assert _of(world, "e4srec+ease", "sasrec") == (True, True, "")


def test_what_is_left_of_a_fusion() -> None:
    world, name = null_world(0), "sasrec+contriever+ease"
    assert same_as(_fused(world, name, *[[0.5, 0.0, 0.5]] * 5)) == "sasrec+ease-partner"
    assert same_as(_fused(world, name, *[[0.5, 0.1, 0.4]] * 5)) is None
    assert same_as(_fused(world, "sasrec+sasrec", *[[1.0, 0.0]] * 5)) == "sasrec"
    assert same_as(_fused(world, "sasrec+sasrec", [1.0, 0.0], *[[0.0, 1.0]] * 4)) is None


def test_a_fusion_with_a_language_model_is_always_set_beside_the_one_without() -> None:
    world = null_world(0)
    world["e4srec+ease"] = replace(world["e4srec"], arm="e4srec+ease")
    world["sasrec+ease"] = replace(world["sasrec"], arm="sasrec+ease")
    world["sasrec-taught"] = replace(_better(world["sasrec"]), arm="sasrec-taught")
    assert best_without_llm(world) == "sasrec-taught"
    assert ("e4srec+ease", "sasrec+ease") in {(j.contrast.family, j.contrast.base) for j in judge(world, draws=100)}
