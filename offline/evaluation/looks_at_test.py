"""How often test events were looked at: every look is an entry of EXPERIMENTS.md."""

from __future__ import annotations

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
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
    with file.open("a") as out:
        out.write(f"\n{LOOK}, {now} UTC\n\n`{command}`\n\n{text}\n")


def looks_at_test(dataset: str, *, file: Path = EXPERIMENTS) -> int:
    """How many looks at this data set's test events are on record."""
    entries = file.read_text().split(f"\n{LOOK}, ")[1:] if file.exists() else []
    return sum(f"\n{dataset}, " in entry for entry in entries)
