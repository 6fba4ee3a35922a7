"""Every figure that `make torture` gives, and what it must be: one line per promise, in the order of the table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """limit: the figure is held at most there, or at least there with `at_least`."""

    name: str
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def target(self) -> str:
        if not self.at_least and self.limit == 0:
            return "0"
        return f"{'>=' if self.at_least else '<='} {self.limit:g}{f' {self.unit}' if self.unit else ''}"

    def held(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


PROMISES = {
    promise.name: promise
    for promise in (
        Promise("100 swaps under load, sequence: failed", 0),
        Promise("100 swaps under load, sequence: mixed", 0),
        Promise("100 swaps under load, sequence: longest publish step", 1, "ms"),
        Promise("10 swaps under load, SmolLM2: failed", 0),
        Promise("10 swaps under load, SmolLM2: mixed", 0),
        Promise("10 swaps under load, SmolLM2: p99 in load windows over steady p99", 1.5, "x"),
        Promise("rollback to the resident version, sequence", 10, "ms"),
        Promise("rollback to the resident version, SmolLM2", 10, "ms"),
        Promise("damaged bundles, sequence: kinds of damage", 20, at_least=True),
        Promise("damaged bundles, sequence: not refused, without a reason, or not answered meanwhile", 0),
        Promise("damaged bundles, sequence: restarts with a broken live that last_good does not serve", 0),
        Promise("damaged bundles, SmolLM2: kinds of damage", 20, at_least=True),
        Promise("damaged bundles, SmolLM2: not refused, without a reason, or not answered meanwhile", 0),
        Promise("damaged bundles, SmolLM2: restarts with a broken live that last_good does not serve", 0),
        Promise("resident memory after 50 swaps over after the first, sequence", 1.05, "x"),
        Promise("overload at 2 x peak, SmolLM2: goodput over peak", 0.9, "x", at_least=True),
        Promise("overload at 2 x peak, SmolLM2: p99 of a reject", 10, "ms"),
        Promise("overload at 2 x peak, SmolLM2: neither answered nor refused", 0),
        Promise("overload at 2 x peak, bundle with a fallback: light answers", 1, at_least=True),
        Promise("exception in the inference thread, SmolLM2: readiness off, or the thread back, after", 1, "s"),
        Promise("exception in the inference thread, SmolLM2: pending answered after", 1, "s"),
        Promise("exception in the inference thread, SmolLM2: back after", 3, "s"),
        Promise("poisoned request, SmolLM2: others that failed with it", 0),
        Promise("hang of the inference thread, SmolLM2: readiness off, once it counts as one, after", 1, "s"),
        Promise("hang of the inference thread, SmolLM2: pending answered, once it counts as one, after", 1, "s"),
        Promise("hang of the inference thread, SmolLM2: back under the demo's supervisor after", 15, "s"),
        Promise("kill -9, 20 rounds: acknowledged events", 10_000, at_least=True),
        Promise("kill -9, 20 rounds: acknowledged events lost", 0),
        Promise("kill -9, 20 rounds: duplicates", 0),
        Promise("SIGTERM under load, 20 rounds: requests lost", 0),
        Promise("Redis paused under load: 5xx on recommend", 0),
        Promise("Redis paused under load: events acknowledged and lost", 0),
        Promise("Redis paused under load: events acknowledged while paused", 0),
        Promise("Redis paused under load: added p99 once the breaker is open", 5, "ms"),
        Promise("new item by PUT: in results after", 1, "s"),
        Promise("new item by PUT: places where it is missing (swap, restart, other replica)", 0),
        Promise("schemathesis with and without keys: undocumented 5xx, stack traces", 0),
        Promise("hostile bodies: sent", 60, at_least=True),
        Promise("hostile bodies: undocumented 5xx, stack traces", 0),
        Promise("state machine: divergences", 0),
    )
}
