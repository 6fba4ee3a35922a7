"""`python -m offline compare`: plan, do what is missing, write the page."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from model_store.store import ModelStore
from offline.compare import trials
from offline.compare.arms import ARMS
from offline.compare.found_versions import FoundVersions
from offline.compare.plan import Plan
from offline.compare.plan_text import plan_text
from offline.compare.planner import make_plan
from offline.compare.results import Results, results_of
from offline.compare.settings import Settings
from offline.compare.timing import time_rows
from offline.compare.units import carry_out
from offline.compare.workers import do_all
from offline.evaluation.looks_at_test import Look, looks_at_test
from offline.report.files import write_report
from offline.report.wording import plural, score, span
from offline.run_config import RunRefused
from offline.workspace import Workspace

Say = Callable[[str], None]
MEASURES = {"score": "ranks", "order": "shuffled histories", "probe": "training probe"}


def compare(
    settings: Settings,
    *,
    store: ModelStore,
    workspace: Workspace,
    command: str,
    record: Path,
    only_plan: bool = False,
    only_page: bool = False,
    say: Say,
) -> dict[str, str]:
    """Prints the plan, does it, writes the report; returns what failed -> why. Started again it goes on.

    record: where looks at test events are counted. only_page: nothing is done, and the report is written from what has
    been measured so far. RunRefused when the plan takes longer than it may, or there is nothing to write a page from.
    """
    plan = make_plan(settings, _found(settings, store))
    say(plan_text(plan))
    if only_plan:
        return {}
    if only_page:
        if not plan.done:
            raise RunRefused(f"--page: {settings.report} holds no measurement yet; run it without --page first")
        results = _results(plan, store, failures=left_to_do(plan), command=command, record=record)
        say(f"written: {write_report(results, plan, settings.report)}")
        return {}
    plan.check()
    looks = any(unit.kind in ("score", "order") for unit in plan.units)
    what = f"{settings.dataset}, {settings.headline}, test"
    look = Look.begun(what, command, file=record) if looks else None
    work = partial(carry_out, settings=settings, store=store, workspace=workspace)
    failures = do_all(plan, work, say=say, deadline=time.monotonic() + 3600 * settings.hours)
    time_rows(plan, _found(settings, store), say=say)
    results = _results(plan, store, failures=failures, command=command, record=record)
    if look is not None:
        look.ended(_short(results))
    say(f"written: {write_report(results, plan, settings.report)}")
    for name, reason in failures.items():
        say(f"not done: {name}: {reason}")
    return failures


def left_to_do(plan: Plan) -> dict[str, str]:
    """What is not measured yet -> how many runs of it; trainings are part of what they are for."""
    left = Counter(
        f"{unit.arm}, {unit.protocol if unit.kind == 'score' else MEASURES[unit.kind]}"
        for unit in plan.units
        if unit.kind in MEASURES
    )
    return {name: f"{plural(runs, 'run')} left to do" for name, runs in left.items()}


def _found(settings: Settings, store: ModelStore) -> FoundVersions:
    families = {arm.family for arm in ARMS if arm.is_bundle}
    return FoundVersions(settings, store, trials.choices(families, settings))


def _results(plan: Plan, store: ModelStore, *, failures: dict[str, str], command: str, record: Path) -> Results:
    looks = looks_at_test(plan.settings.dataset, file=record)
    found = _found(plan.settings, store)
    found.refusals.update(plan.unavailable)
    return results_of(plan, found, failures=failures, command=command, looks=looks)


def _short(results: Results) -> str:
    """What the record keeps of one look: the headline's rows."""
    p = results.provenance
    seen = "seen items removed" if p.seen_removed else "seen items kept"
    return "\n".join(
        [
            f"{p.dataset}, {p.headline}, test, {seen}; full ranking, {p.minutes:g} minutes per run",
            "",
            "| row | seeds | NDCG@10 | 95 % interval over users and seeds | HR@10 |",
            "|---|---|---|---|---|",
            *(
                f"| {r.arm} | {r.seeds} | {score(r.ndcg10)} | {span(r.low, r.high)} | {score(r.hr10)} |"
                for r in results.warm
            ),
        ]
    )
