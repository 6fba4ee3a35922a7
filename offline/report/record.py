"""Sections that say what was reached, what spaces mean, what is missing, and how the page was made."""

from __future__ import annotations

from offline.compare.arms import BY_NAME
from offline.compare.results import Results
from offline.report.blocks import Bullets, Folded, Section, Table, Text
from offline.report.wording import MISSING, plural

# Residual rows answer in the very matrix of what they stand beside: one space, shown once.
SPACES = 6


def targets(results: Results) -> Section:
    said = {True: "held", False: "missed", None: "not measured here"}
    rows = tuple((t.name, t.target, t.value or MISSING, said[t.held]) for t in results.targets)
    return Section(
        "targets",
        "What it was meant to reach",
        [Table(("what", "target", "measured", "reached"), rows, words=frozenset({0, 1, 2, 3}))],
    )


def neighbours(results: Results) -> Section:
    """Each distinct space once: what stands beside another row answers in that row's space."""
    spaces: dict[str, dict[str, list[str]]] = {}
    for arm, found in results.neighbours.items():
        # A fusion has no space of its own, and a control's means nothing by design.
        if BY_NAME[arm].role not in ("control", "fusion") and found not in spaces.values() and len(spaces) < SPACES:
            spaces[arm] = found
    titles = list(dict.fromkeys(title for found in spaces.values() for title in found))
    if not titles:
        return Section("neighbours", "What each space means", [Text("Not measured.")])
    rows = tuple(
        (title, arm, "; ".join(found[title])) for title in titles for arm, found in spaces.items() if title in found
    )
    table = Table(("item", "space", "nearest"), rows, words=frozenset({0, 1, 2}))
    return Section(
        "neighbours",
        "What each space means",
        [
            Text("The nearest items by angle to a popular, a less popular and a rare one, of the first seed."),
            Folded(f"{plural(len(titles), 'title')} in {plural(len(spaces), 'space')}", (table,)),
        ],
    )


def missing(results: Results) -> Section:
    if not results.missing:
        return Section("missing", "What was not measured", [Text("Everything that was asked for was measured.")])
    rows = tuple(results.missing.items())
    return Section("missing", "What was not measured", [Table(("what", "why"), rows, words=frozenset({0, 1}))])


def _budgets(results: Results) -> str:
    p = results.provenance
    trials = (
        "no trials: every family starts from the values that are written down with it"
        if p.trials == 1
        else f"{p.trials} trials of at most 2 minutes for SASRec and every family that is trained (LlamaRec has none)"
    )
    return (
        f"Budgets: at most {p.minutes:g} minutes of training per run; a training that validation no longer improves "
        f"ends before. {trials[0].upper()}{trials[1:]}. EASE searches its whole grid on validation, in "
        f"seconds. {plural(p.seeds, 'seed')} at most."
    )


def making(results: Results) -> Section:
    p = results.provenance
    seen = "seen items removed" if p.seen_removed else "seen items kept"
    tuned = "; ".join(
        f"{family}: {', '.join(f'{key} = {value}' for key, value in changes.items()) or 'as it starts'}"
        for family, changes in results.tuned.items()
    )
    return Section(
        "making",
        "How this was made",
        [
            Bullets(
                (
                    f"Command: {p.command}",
                    f"Data: {p.dataset}, fingerprint {p.dataset_fingerprint[:12]}; protocol {p.headline}, test "
                    f"events, {seen}, "
                    "full ranking through the bundles that ship.",
                    _budgets(results),
                    *((f"Chosen by the trials: {tuned}.",) if tuned else ()),
                    "Intervals: 95 %, 10,000 draws of users (with all their events) and of seeds, whose deviations are "
                    "stretched by sqrt(n / (n - 1)); new items: users and items. Equal scores: the lower item row "
                    "first. A user's events of equal time: in the order of the data's file.",
                    *(
                        (f"Timed on {p.timed_on}, one after the other: {plural(len(p.timed), 'row')}.",)
                        if p.timed_on
                        else ()
                    ),
                    f"Measured {p.measured[0]} to {p.measured[1]} UTC. Looks at test events of {p.dataset} on "
                    f"record: {p.looks}.",
                )
            )
        ],
    )
