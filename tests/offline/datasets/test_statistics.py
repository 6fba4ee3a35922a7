from __future__ import annotations

from dataclasses import replace

from offline.datasets import Interactions
from offline.datasets.statistics import describe


def test_what_a_person_reads_of_ml_100k(ml_100k: Interactions) -> None:
    text = describe(ml_100k)
    for part in (
        "ml-100k",
        "943",
        "1,682 (0 without an event)",
        "100,000 (0 repeats",
        "6.3047%",
        "mean 106.0; 20 (0 %)",
        "1997-09-20 to 1998-04-22 (0 users have none)",
        "(0 missing, ",
        "19 on 1,682 items",
    ):
        assert part in text


def test_data_without_times_says_so(small_world: Interactions) -> None:
    untimed = replace(small_world, times_ms=small_world.times_ms * 0 - 1)
    assert "file order counts" in describe(untimed)
