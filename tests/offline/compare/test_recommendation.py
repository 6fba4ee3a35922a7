from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from offline.compare.recommendation import Candidate, Evidence, recommend

PLAIN = Candidate("sasrec", llm=False, ndcg10=0.110, low=0.104, cpu_ms=2.0, cold=False)
FUSED = Candidate("sasrec+ease", llm=False, ndcg10=0.130, low=0.124, cpu_ms=3.0, cold=False)
LLM = Candidate("e4srec", llm=True, ndcg10=0.128, low=0.122, cpu_ms=9.0, cold=False)
TEXT = Candidate("contriever", llm=True, ndcg10=0.126, low=0.120, cpu_ms=8.0, cold=True)


def _evidence(*candidates: Candidate, **changes: Any) -> Evidence:
    given = {"new_items": None, "winners": (), "best_without": "sasrec+ease"}
    return Evidence(candidates, **(given | changes))


def test_nothing_measured_recommends_nothing() -> None:
    found = recommend(_evidence(best_without=None))
    assert (found.choice, found.llm, found.reasons) == (None, None, ())
    assert "nothing was measured" in found.headline


def test_no_llm_beyond_chance_is_do_not_deploy_an_llm() -> None:
    found = recommend(_evidence(PLAIN, FUSED, LLM))
    assert (found.choice, found.llm) == ("sasrec+ease", False)
    assert found.headline == "Do not deploy an LLM on this data: deploy SASRec + EASE."
    assert "none is better than SASRec + EASE" in found.reasons[3]
    assert found.reasons[0].startswith("Quality: of what needs no language model, SASRec + EASE is best")


def test_what_may_be_better_and_is_not_shown_is_said_to_be_so() -> None:
    found = recommend(_evidence(PLAIN, FUSED, LLM, promising=("e4srec",)))
    assert (found.choice, found.llm) == ("sasrec+ease", False)
    assert found.headline == "Deploy SASRec + EASE for now: a language model may be better, and that is not shown yet."
    assert "E4SRec stands above SASRec + EASE" in found.reasons[3]


def test_an_llm_that_is_better_and_alone_in_the_interval_is_deployed() -> None:
    best = replace(LLM, ndcg10=0.150, low=0.140)
    found = recommend(_evidence(PLAIN, FUSED, best, winners=("e4srec",)))
    assert (found.choice, found.llm, found.headline) == ("e4srec", True, "Deploy E4SRec.")
    assert "nothing lies in its interval" in found.reasons[0]
    assert "9.0 ms of CPU per request" in found.reasons[2]
    assert "beyond chance: E4SRec" in found.reasons[3]


def test_of_what_is_as_good_the_cheapest_is_deployed() -> None:
    found = recommend(_evidence(LLM, TEXT, winners=("e4srec",), best_without=None))
    assert found.choice == "contriever"
    assert "in its interval too: Contriever-Rec" in found.reasons[0]
    assert "8.0 ms of CPU per request (up to 9.0)" in found.reasons[2]
    assert "nothing without one was measured" in found.reasons[3]


def test_a_better_llm_may_still_not_be_worth_its_cost() -> None:
    better = replace(LLM, ndcg10=0.133, low=0.127)
    found = recommend(_evidence(FUSED, better, winners=("e4srec",)))
    assert (found.choice, found.llm) == ("sasrec+ease", False)
    assert found.headline == (
        "Deploy SASRec + EASE, without a language model. "
        "E4SRec is 2.3% more accurate, beyond chance, at 3 times the CPU."
    )
    assert found.better == "e4srec"


def test_of_what_is_better_beyond_chance_the_cheapest_is_named_and_what_random_weights_do_too() -> None:
    better = replace(LLM, ndcg10=0.133, low=0.127)
    dear = replace(TEXT, ndcg10=0.134, low=0.128, cpu_ms=20.0)
    winners = {"winners": ("contriever", "e4srec"), "with_random_weights": ("e4srec",)}
    found = recommend(_evidence(FUSED, better, dear, **winners))
    assert found.better == "e4srec"
    assert found.reasons[3].endswith("so that pretraining need not be what helps: E4SRec.")


@pytest.mark.parametrize(
    ("share", "candidates", "choice", "says"),
    [
        (None, (LLM, TEXT), "contriever", "was not measured, so nothing was left out"),
        (0.05, (LLM, TEXT), "contriever", "5% of later events choose one, too few"),
        (0.30, (LLM, replace(TEXT, cpu_ms=20.0)), "contriever", "kept is what finds them: Contriever-Rec"),
        (0.30, (LLM, replace(TEXT, cold=False)), "contriever", "nothing here finds them better"),
        (0.30, (replace(LLM, cold=None), TEXT), "contriever", "Left out, because that was not measured: E4SRec"),
        (0.30, (replace(LLM, cold=None), replace(TEXT, cold=False)), "contriever", "(not measured: E4SRec)"),
        (0.30, (replace(LLM, cold=None), replace(TEXT, cold=None)), "contriever", "who finds them was not measured"),
    ],
)
def test_new_items_decide_where_they_are_common(
    share: float | None, candidates: tuple[Candidate, ...], choice: str, says: str
) -> None:
    found = recommend(_evidence(*candidates, new_items=share, winners=("e4srec",)))
    assert found.choice == choice
    assert says in found.reasons[1]


def test_without_latency_quality_decides() -> None:
    found = recommend(_evidence(replace(LLM, cpu_ms=None), replace(TEXT, cpu_ms=None), winners=("e4srec",)))
    assert found.choice == "e4srec"
    assert "no latency was measured" in found.reasons[2]


def test_without_llm_rows_nothing_is_said_of_them() -> None:
    found = recommend(_evidence(PLAIN, FUSED))
    assert (found.choice, found.llm) == ("sasrec+ease", None)
    assert "no language model was compared" in found.headline
    assert found.reasons[3] == "Language models: none was measured."
