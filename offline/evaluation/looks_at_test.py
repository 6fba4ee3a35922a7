"""How often test events were looked at: every look is an entry of EXPERIMENTS.md."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from offline.evaluation.comparison_text import as_text
from offline.evaluation.version_comparison import Table

EXPERIMENTS = Path(__file__).parents[1] / "EXPERIMENTS.md"
LOOK = "### Look at test"


def record_final(table: Table, command: str, *, file: Path = EXPERIMENTS) -> None:
    """Every look at test events is counted: a dated entry at the end of EXPERIMENTS.md."""
    record_look(as_text(table), command, file=file)


def record_look(text: str, command: str, *, file: Path = EXPERIMENTS) -> None:
    """text begins with the data set's name and a comma."""
    _append(f"{_head(command)}{text}\n", file)


@dataclass(frozen=True, slots=True)
class Look:
    """One that is counted before it is taken: whoever is killed while looking has looked."""

    entry: str
    file: Path

    @classmethod
    def begun(cls, what: str, command: str, *, file: Path = EXPERIMENTS) -> Look:
        """what: begins with the data set's name and a comma."""
        entry = f"{_head(command)}{what}; begun, and cut off before its rows were written\n"
        _append(entry, file)
        return cls(entry, file)

    def ended(self, text: str) -> None:
        """text: takes the place of what was said when it began."""
        head = self.entry.rpartition("\n\n")[0]
        self.file.write_text(self.file.read_text().replace(self.entry, f"{head}\n\n{text}\n"))


def _append(entry: str, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as out:
        out.write(entry)


def _head(command: str) -> str:
    return f"\n{LOOK}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n\n`{command}`\n\n"


def looks_at_test(dataset: str, *, file: Path = EXPERIMENTS) -> int:
    """How many looks at this data set's test events are on record."""
    entries = file.read_text().split(f"\n{LOOK}, ")[1:] if file.exists() else []
    return sum(f"\n{dataset}, " in entry for entry in entries)
