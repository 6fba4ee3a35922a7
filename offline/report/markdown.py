"""The same page as Markdown: drawings become the figures that they are made of."""

from __future__ import annotations

from offline.report.blocks import Block, Bullets, Commands, Drawings, Folded, Table, Text, Whisker, Whiskers
from offline.report.page import Page


def as_markdown(page: Page) -> str:
    parts = [f"# {page.headline}", page.above + ".", _list([f"{t.name}: **{t.value}** ({t.note})" for t in page.tiles])]
    parts.append("\n".join(f"{n}. {reason}" for n, reason in enumerate(page.reasons, start=1)))
    for section in page.sections:
        parts += [f"## {section.title}", *(text for block in section.blocks if (text := _block(block)))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block) -> str:
    match block:
        case Text(text):
            return text
        case Bullets(items):
            return _list(items)
        case Table():
            return _table(block)
        case Whiskers(rows, alone=True):
            # Elsewhere the table beside it has the figures.
            return _list([f"{row.name}: {row.figure} ({_ends(row)})" for row in rows])
        case Whiskers():
            return ""
        case Commands(lines):
            return "\n".join(["```sh", *lines, "```"])
        case Folded(summary, blocks):
            return "\n\n".join([f"{summary}:", *(text for each in blocks if (text := _block(each)))])
        case Drawings(drawings):
            return _list([drawing.text for drawing in drawings])


def _ends(row: Whisker) -> str:
    if row.figure.endswith("%"):
        return f"{row.low:+.1%} to {row.high:+.1%}"
    return f"{row.low:.4f} to {row.high:.4f}"


def _list(items: list[str] | tuple[str, ...]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _table(table: Table) -> str:
    rule = "|".join("---" if n in table.words else "---:" for n in range(len(table.columns)))
    rows = [table.columns, *table.rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])
