from __future__ import annotations

import pytest

from offline.compare.arms import ALWAYS, ARMS, BY_NAME, chosen
from offline.run_config import RunRefused


def test_every_arm_names_arms_that_exist_and_come_before_it() -> None:
    assert len(BY_NAME) == len(ARMS)
    for arm in ARMS:
        for name in [*arm.parent_arms(), *filter(None, (arm.beside, arm.twin))]:
            assert name in BY_NAME, (arm.name, name)
        if arm.twin is not None:
            assert BY_NAME[arm.twin].role == "control"


def test_chosen_arms_come_with_their_parents_and_the_baselines() -> None:
    assert chosen([], []) == ARMS
    names = [arm.name for arm in chosen([], ["e4srec+ease"])]
    assert names == [*ALWAYS, "ease-partner", "e4srec", "e4srec+ease"]
    family = chosen(["contriever"], [])
    assert {arm.family for arm in family if arm.is_bundle} == {"ease", "sasrec", "contriever", "fused"}
    assert {"sasrec+sasrec", "sasrec+ease", "contriever-random"} <= {arm.name for arm in family}
    assert not any(arm.llm and arm.family != "contriever" for arm in family)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(RunRefused, match=r"--families bert: known are .*contriever"):
        chosen(["bert"], [])
    with pytest.raises(RunRefused, match=r"--arms e4srek: known are .*e4srec-random"):
        chosen([], ["e4srek"])
