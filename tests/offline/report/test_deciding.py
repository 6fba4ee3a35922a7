from __future__ import annotations

from dataclasses import replace

import pytest

from offline.compare.contrasts import OWNERS
from offline.compare.results import Results
from offline.report.blocks import Commands, Section, Table, Text
from offline.report.deciding import serve, today
from offline.report.wording import MISSING


@pytest.fixture
def with_todays(results: Results) -> Results:
    """The row that an owner of iLoRA runs, and contrasts with it: e4srec above, contriever below, llamarec level."""
    base = replace(results.warm[-1], arm=OWNERS, role="variant")
    spans = {"e4srec": (0.01, 0.05), "llamarec": (-0.02, 0.02), "contriever": (-0.09, -0.03)}
    one = results.contrasts[0]
    made = [
        replace(one, contrast=replace(one.contrast, family=n, base=OWNERS, relative_low=low, relative_high=high))
        for n, (low, high) in spans.items()
    ]
    return replace(results, rows=[*results.rows, base], contrasts=[*results.contrasts, *made])


def _texts(section: Section) -> str:
    return " ".join(block.text for block in section.blocks if isinstance(block, Text))


def test_each_alternative_stands_against_what_runs_today(with_todays: Results) -> None:
    section = today(with_todays)
    assert "more accurate: E4SRec; not to be told apart from it: LlamaRec; less accurate: Contriever-Rec." in _texts(
        section
    )
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    lines = {line[0]: line for line in table.rows}
    assert set(lines) == {"E4SRec", "LlamaRec", "Contriever-Rec", "iLoRA (sasrec)"}
    assert lines["E4SRec"][3] == "+1.0 to +5.0 %"
    assert lines["Contriever-Rec"][6] == "0.300", "recall among new items"
    assert table.rows[-1][0] == "iLoRA (sasrec)", "what runs today, last"


def test_times_of_another_machine_are_marked(with_todays: Results) -> None:
    def shown(*timed: str) -> tuple[dict[str, str], str]:
        provenance = replace(with_todays.provenance, timed_on="a processor", timed=timed)
        section = today(replace(with_todays, provenance=provenance))
        (table,) = [block for block in section.blocks if isinstance(block, Table)]
        return {str(line[0]): str(line[5]) for line in table.rows}, _texts(section)

    times, text = shown("e4srec", "contriever", OWNERS)
    assert times["LlamaRec"].endswith("*")
    assert not times["E4SRec"].endswith("*")
    assert "with * are of another machine" in text
    assert "*" not in shown("e4srec", "llamarec", "contriever", OWNERS)[1], "nothing to mark, nothing said"


def test_what_was_never_timed_is_missing_and_not_of_another_machine(with_todays: Results) -> None:
    rows = [replace(row, costs={}) if row.arm == "llamarec" else row for row in with_todays.rows]
    provenance = replace(with_todays.provenance, timed_on="a processor", timed=("e4srec", "contriever", OWNERS))
    section = today(replace(with_todays, rows=rows, provenance=provenance))
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    assert {line[0]: line[5] for line in table.rows}["LlamaRec"] == MISSING
    assert "*" not in _texts(section)


def test_without_that_row_it_says_so(results: Results) -> None:
    assert _texts(today(results)) == "Not measured."


def test_the_choice_can_be_served_by_what_is_printed(results: Results) -> None:
    choice = results.recommendation.choice
    commands = [line for b in serve(results).blocks if isinstance(b, Commands) for line in b.lines]
    assert commands[:2] == [
        f"python -m offline ship 2026-{choice} --activate",
        f"python -m model_store activate 2026-{choice}",
    ]


def test_what_the_choice_was_not_asked_is_said(results: Results) -> None:
    choice = results.recommendation.choice
    assert "not measured: new items." in _texts(serve(results))
    unasked = replace(results, rows=[r for r in results.rows if r.arm != choice or r.protocol != "temporal"])
    assert "how it does after the time it was trained on and new items." in _texts(serve(unasked))
    nothing = replace(results, recommendation=replace(results.recommendation, choice=None))
    assert "nothing was chosen" in _texts(serve(nothing))
