"""A claim of the page: its primary contrast, and a verdict that says no more than the interval does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from offline.evaluation.bootstrap import holm
from offline.evaluation.resampling import Estimate

Verdict = Literal["supported", "contradicted", "undecided", "not measured"]
LEAST_SEEDS = 5
LEAST_SLOW_SEEDS = 3  # where a run costs over SLOW_MINUTES
SLOW_MINUTES = 20.0
ALPHA = 0.05

CLAIMS: dict[int, str] = {
    1: "iLoRA is hard to train: its projector has to hit a space that another model made",
    2: "Contriever-Rec trains more smoothly than iLoRA",
    3: "Text families win on new items, to which ID families are blind",
    4: "Text alone loses collaborative signal on well-known items",
    5: "Pooling the whole history serves long-term interest, the last token serves the next step",
    6: "E4SRec tells items with nearly the same title apart, text cannot",
    7: "Retrieving and then reranking pays",
    8: "iLoRA gets better when the projector is turned around, from items into a common space",
    9: "A recommender built on a language model reads the order of the history",
    10: "Raw ID and raw text together keep more than either alone (E4SRec)",
    11: "E4SRec trains more directly than iLoRA",
    12: "Contriever-Rec is the most promising replacement of iLoRA",
    13: "The pretrained language model contributes something that random weights do not",
}


def least_seeds(minutes: Iterable[float]) -> int:
    """Runs that each side of a claim needs; minutes: of one training of each."""
    return LEAST_SLOW_SEEDS if any(each > SLOW_MINUTES for each in minutes) else LEAST_SEEDS


@dataclass(frozen=True, slots=True)
class Finding:
    """A measurement before the verdict.

    contrast: in words; above 0 speaks for the claim, in every row. estimate: None when nothing was measured.
    seeds: the fewest trained runs of any side. missing: what a measurement lacks (estimate None).
    holds_back: why the claim may not be called supported, whatever the interval says.
    made_of: what a mean is made of, in words: a verdict would hide that its parts disagree.
    details: figures beside the primary one, as JSON takes them.
    """

    number: int
    contrast: str
    estimate: Estimate | None
    seeds: int = 0
    least_seeds: int = LEAST_SEEDS
    missing: str = ""
    holds_back: str = ""
    made_of: str = ""
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of the page. value, low, high: the primary contrast with its 95 % interval; above 0 speaks for the claim.

    detectable: smallest detectable difference, 2.8 standard errors. p_holm: over the page's primary contrasts.
    Figures are None where nothing was measured.
    """

    number: int
    claim: str
    contrast: str
    value: float | None
    low: float | None
    high: float | None
    detectable: float | None
    seeds: int
    verdict: Verdict
    sentence: str
    details: Mapping[str, object]
    p: float | None = None
    p_holm: float | None = None
    counted: bool = False  # whether there are runs enough for a verdict


def not_measured(number: int, contrast: str, missing: str, *, details: Mapping[str, object] | None = None) -> Finding:
    return Finding(number, contrast, None, missing=missing, details=details or {})


def finalise(findings: Sequence[Finding], *, others: Sequence[float] = ()) -> list[Claim]:
    """Verdicts, with p adjusted over all findings that were measured and `others`: p of what is claimed beside them, 1
    where that may not be claimed."""
    findings = [_without_empty(finding) for finding in findings]
    measured = [finding.estimate.p for finding in findings if finding.estimate is not None]
    counted = [_counted(finding) for finding in findings if finding.estimate is not None]
    adjusted = iter(holm([*measured, *others], [*counted, *(True for _ in others)]))
    return [
        _unmeasured(finding)
        if finding.estimate is None
        else _judged(finding, finding.estimate, p_holm=next(adjusted), contrasts=len(measured) + len(others))
        for finding in findings
    ]


def _counted(finding: Finding) -> bool:
    return finding.seeds >= finding.least_seeds


def _without_empty(finding: Finding) -> Finding:
    if finding.estimate is None or math.isfinite(finding.estimate.value):
        return finding
    return not_measured(
        finding.number, finding.contrast, "no event fits the measurement on this data", details=finding.details
    )


def _unmeasured(finding: Finding) -> Claim:
    sentence = f"Not measured: {finding.missing}."
    return Claim(
        finding.number,
        CLAIMS[finding.number],
        finding.contrast,
        value=None,
        low=None,
        high=None,
        detectable=None,
        seeds=0,
        verdict="not measured",
        sentence=sentence,
        details=finding.details,
    )


def _judged(finding: Finding, estimate: Estimate, *, p_holm: float, contrasts: int) -> Claim:
    verdict, sentence = _verdict(finding, estimate, p_holm=p_holm, contrasts=contrasts)
    sentence += f" {finding.made_of}" if finding.made_of else ""
    return Claim(
        finding.number,
        CLAIMS[finding.number],
        finding.contrast,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        detectable=estimate.detectable,
        seeds=finding.seeds,
        verdict=verdict,
        sentence=sentence,
        details=finding.details,
        p=estimate.p,
        p_holm=p_holm,
        counted=_counted(finding),
    )


def _verdict(finding: Finding, estimate: Estimate, *, p_holm: float, contrasts: int) -> tuple[Verdict, str]:
    interval = f"{estimate.low:+.4f} to {estimate.high:+.4f}"
    figure = f"{finding.contrast} is {estimate.value:+.4f} ({interval})"
    if estimate.low <= 0 <= estimate.high:
        shown = f"this data would show a difference of at least {estimate.detectable:.4f}"
        return "undecided", f"Undecided: {figure}; {shown}."
    if not _counted(finding):
        few = f"a claim needs {finding.least_seeds} runs of each side, and one side has {finding.seeds}"
        return "undecided", f"Undecided: {figure}, but {few}."
    if p_holm > ALPHA:
        among = f"among the {contrasts} contrasts of this page that is within chance (adjusted p {p_holm:.3f})"
        shown = f"this data would show a difference of at least {estimate.detectable:.4f}"
        return "undecided", f"Undecided: {figure}, but {among}; {shown}."
    if estimate.high < 0:
        return "contradicted", f"Contradicted: {figure}, adjusted p {p_holm:.3f}."
    if finding.holds_back:
        return "undecided", f"Undecided: {figure}, but {finding.holds_back}."
    return "supported", f"Supported: {figure}, adjusted p {p_holm:.3f}."
