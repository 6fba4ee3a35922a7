"""The plan, for a person who is about to wait for it."""

from __future__ import annotations

from collections import defaultdict

from offline.compare.plan import Plan


def plan_text(plan: Plan) -> str:
    """Per arm and protocol: what is left and its minutes; then the total."""
    settings = plan.settings
    left: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for unit in plan.units:
        left[unit.arm, _kind_of(unit.protocol), unit.kind].append(unit.minutes)
    rows = [
        f"{arm:<22} {protocol:<14} {kind:<6} {len(minutes):>3} x {sum(minutes) / len(minutes):>5.1f} min"
        for (arm, protocol, kind), minutes in sorted(left.items(), key=lambda item: (_place(plan, item[0][0]), item[0]))
    ]
    lines = [
        f"{settings.dataset}, {', '.join(plan.protocols)}; {settings.minutes:g} minutes of training per run, "
        f"{settings.trials} trials per family, {settings.seeds} seeds at most",
        *rows,
        *(f"not available: {name}: {reason}" for name, reason in plan.unavailable.items()),
        f"{plan.done} measurements are there already; {len(plan.units)} units of work are left: "
        f"{plan.minutes / 60:.1f} hours of one core, {plan.hours:.1f} hours with {settings.jobs} jobs",
    ]
    return "\n".join(lines)


def _kind_of(protocol: str) -> str:
    return "cold-items" if protocol.startswith("cold-items") else protocol


def _place(plan: Plan, arm: str) -> int:
    names = [each.name for each in plan.arms]
    return names.index(arm) if arm in names else len(names)
