"""The table of `make torture`: figures beside their targets, and the same as JSON."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.torture.promises import PROMISES

RESULTS = Path(__file__).with_name("results.json")
VERDICTS = {True: "held", False: "MISSED", None: "not measured"}


@dataclass
class Figures:
    """What was measured in this run. A promise that nothing was told of stands in the table as not measured."""

    values: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.time)

    def tell(self, name: str, value: float) -> None:
        assert name in PROMISES, f"{name!r} is no line of the table"
        self.values[name] = value

    def not_measured(self, start: str, reason: str) -> None:
        """For every promise whose name begins so. A promise without a figure never counts as held."""
        names = [name for name in PROMISES if name.startswith(start)]
        assert names, f"no line of the table begins with {start!r}"
        self.reasons.update(dict.fromkeys(names, reason))

    def rows(self) -> list[dict[str, object]]:
        return [
            {
                "name": name,
                "value": round(self.values[name], 4) if name in self.values else None,
                "target": promise.target,
                "held": promise.held(self.values[name]) if name in self.values else None,
            }
            for name, promise in PROMISES.items()
        ]

    def write(self, file: Path = RESULTS) -> None:
        """A line that this run did not come to keeps the figure that an earlier run wrote, and that run's time."""
        earlier = json.loads(file.read_text()) if file.exists() else {}
        times = earlier.get("measured_at", {})
        kept = {row["name"]: row for row in earlier.get("rows", []) if row["name"] in times}
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
        rows, measured_at = [], {}
        for row in self.rows():
            name = str(row["name"])
            if name in self.values:
                measured_at[name] = now
            elif name in kept and name not in self.reasons:
                row = kept[name] | {"target": row["target"]}
                measured_at[name] = times[name]
            rows.append(row)
        told = {
            "rows": rows,
            "measured_at": measured_at,
            "not_measured": {n: self.reasons.get(n, "not run") for n in PROMISES if n not in measured_at},
            "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
            "load_average": round(os.getloadavg()[2], 2),
            "minutes": round((time.time() - self.started) / 60, 1),
        }
        file.write_text(json.dumps(told, indent=2) + "\n")

    def table(self) -> str:
        lines = [f"{'':<86} {'value':>10}  {'target':<10}  verdict"]
        for row in self.rows():
            value = "" if row["value"] is None else f"{row['value']:g}"
            held = row["held"]
            assert held is None or isinstance(held, bool)
            why = f": {self.reasons[str(row['name'])]}" if held is None and str(row["name"]) in self.reasons else ""
            lines.append(f"{row['name']:<86} {value:>10}  {row['target']:<10}  {VERDICTS[held]}{why}")
        return "\n".join(lines)
