"""Claims 1, 2 and 11: how easily a family learns, from the training probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from offline.claims.claim import Finding, not_measured
from offline.claims.contrasts import named
from offline.claims.probe_runs import ProbeRun
from offline.evaluation.metrics import Floats
from offline.evaluation.resampling import Figure, resample

# None of them a residual, which would begin where SASRec ends.
ARMS = ("ilora-sasrec", "ilora", "contriever", "e4srec-sum")
CONTRASTS = {
    1: ("ilora", "ilora-sasrec"),
    2: ("contriever", "ilora-sasrec"),
    11: ("e4srec-sum", "ilora-sasrec"),
}
RATES = (1e-4, 3e-4, 1e-3)
LEAST_SEEDS = 3  # by design: three seeds at each of three learning rates
NEAR_BEST = 0.95
SPIKE_WINDOW = 50


@dataclass(frozen=True, slots=True, eq=False)
class Aulc:
    """AULC = mean over looks of q(z) / q_SASRec(final), mean over learning rates. seeds: of the arm."""

    figure: Figure
    seeds: int


def training_ease(runs: Sequence[ProbeRun], *, draws: int, seed: int) -> list[Finding]:
    """AULC of one arm minus that of another, withheld users and seeds resampled. Claims 1, 2, 11."""
    aulc = _aulc(runs, draws=draws, seed=seed)
    beside: dict[str, object] = {
        "unit": "AULC",
        "arms": [_figures(arm, runs, aulc[arm]) for arm in ARMS if arm in aulc],
    }
    findings = []
    for number, (family, base) in CONTRASTS.items():
        contrast = f"AULC({family}) - AULC({base})"
        lacking = [arm for arm in (family, base) if arm not in aulc]
        if lacking:
            missing = f"the training probe has no runs of {named(lacking if aulc else ['sasrec', *lacking])}"
            findings.append(not_measured(number, contrast, missing, details=beside))
            continue
        difference = aulc[family].figure - aulc[base].figure
        seeds = min(aulc[family].seeds, aulc[base].seeds)
        findings.append(
            Finding(
                number,
                contrast,
                difference.estimate(),
                seeds=seeds,
                least_seeds=LEAST_SEEDS,
                details=beside,
            )
        )
    return findings


def _aulc(runs: Sequence[ProbeRun], *, draws: int, seed: int) -> dict[str, Aulc]:
    """Empty without SASRec's own runs."""
    sasrec = [run for run in runs if run.arm == "sasrec"]
    if not sasrec:
        return {}
    events_U = np.array([events for events, _, _ in sasrec[0].users], dtype=np.float64)
    scores = {"sasrec": np.stack([_per_user(run, final=True) for run in sasrec])}
    scores |= {arm: rows for arm in ARMS if (rows := _seed_rows([run for run in runs if run.arm == arm])) is not None}
    users = np.arange(len(events_U), dtype=np.int32)
    figures = resample(scores, users, weights={"all": events_U}, draws=draws, seed=seed)
    base = figures["sasrec"]["all"]
    return {arm: Aulc(figures[arm]["all"] / base, len(scores[arm])) for arm in scores if arm != "sasrec"}


def _seed_rows(runs: Sequence[ProbeRun]) -> Floats | None:
    """float64 [seeds, U]: means over all of `RATES`, of the seeds that have a run at each: an arm that lacks one is
    another mean, and is compared with none."""
    rates = set(RATES)
    by_seed = {seed: [run for run in runs if run.seed == seed] for seed in sorted({run.seed for run in runs})}
    whole = [of_seed for of_seed in by_seed.values() if {run.learning_rate for run in of_seed} == rates]
    return np.stack([np.mean([_per_user(run) for run in of_seed], axis=0) for of_seed in whole]) if whole else None


def _per_user(run: ProbeRun, *, final: bool = False) -> Floats:
    """float64[U]: a user's mean reciprocal rank at the last look, or its mean over looks."""
    return np.array([(last if final else mean) / max(events, 1) for events, mean, last in run.users])


def _figures(arm: str, runs: Sequence[ProbeRun], aulc: Aulc) -> dict[str, object]:
    """What stands beside an arm's AULC: time to SASRec's level, robustness, spread, spikes, and its curves."""
    mine = [run for run in runs if run.arm == arm]
    target = NEAR_BEST * float(np.mean([run.mrr[-1] for run in runs if run.arm == "sasrec"]))
    finals = [run.mrr[-1] for run in mine]
    best_rate = max({run.learning_rate for run in mine}, key=lambda rate: _mean_final(mine, rate))
    at_best = [run.mrr[-1] for run in mine if run.learning_rate == best_rate]
    reached = [seconds for run in mine if (seconds := _seconds_to(run, target)) is not None]
    estimate = aulc.figure.estimate()
    return {
        "arm": arm,
        "aulc": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "runs": len(mine),
        "runs_that_reach_95_percent_of_sasrec": len(reached),
        "cpu_seconds_to_95_percent_of_sasrec": median(reached) if reached else None,
        "share_within_5_percent_of_best": float(np.mean([q >= NEAR_BEST * max(finals) for q in finals])),
        "best_learning_rate": best_rate,
        "sd_over_seeds_at_best_rate": float(np.std(at_best, ddof=1)) if len(at_best) > 1 else None,
        "loss_spikes_per_run": float(np.mean([loss_spikes(run.losses) for run in mine])),
        "diverged": sum(run.diverged for run in mine),
        "curves": [
            {"learning_rate": rate, "targets": of_rate[0].targets, "mrr": np.mean([r.mrr for r in of_rate], 0).tolist()}
            for rate in sorted({run.learning_rate for run in mine}, key=lambda rate: rate or 0.0)
            if (of_rate := [run for run in mine if run.learning_rate == rate])
        ],
    }


def _mean_final(runs: Sequence[ProbeRun], rate: float | None) -> float:
    return float(np.mean([run.mrr[-1] for run in runs if run.learning_rate == rate]))


def _seconds_to(run: ProbeRun, level: float) -> float | None:
    return next((seconds for seconds, q in zip(run.cpu_seconds, run.mrr, strict=True) if q >= level), None)


def loss_spikes(losses: Sequence[float]) -> int:
    """Steps whose loss lies over six deviations above the median of the 50 before it.

    The deviation is 1.4826 median absolute deviations, which a spike itself hardly moves.
    """
    spikes = 0
    for step in range(SPIKE_WINDOW, len(losses)):
        before = np.array(losses[step - SPIKE_WINDOW : step])
        middle = float(np.median(before))
        deviation = 1.4826 * float(np.median(np.abs(before - middle)))
        spikes += losses[step] > middle + 6 * max(deviation, 1e-6)
    return spikes
