from __future__ import annotations

from dataclasses import replace

from offline.compare.results import Results
from offline.report.summary import tiles


def test_what_a_language_model_gains_stands_beside_what_random_weights_gain(results: Results) -> None:
    one = results.contrasts[0]
    made = [
        replace(one, contrast=replace(one.contrast, family=name, base="sasrec", relative=relative))
        for name, relative in (("e4srec", 0.05), ("e4srec-random", 0.04))
    ]
    chosen = replace(results.recommendation, choice="sasrec", better="e4srec")
    notes = {t.name: t for t in tiles(replace(results, recommendation=chosen, contrasts=made))}
    assert notes["With a language model"].value == "E4SRec"
    assert notes["What that gains"].value == "+5.0 %"
    assert notes["What that gains"].note.endswith("; with random weights +4.0 %")
    alone = {t.name: t for t in tiles(replace(results, recommendation=chosen, contrasts=made[:1]))}
    assert "random" not in alone["What that gains"].note
