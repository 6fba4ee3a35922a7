"""Who moved which label when: one JSON line per label that moved, appended before the labels themselves change."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.durable import reading, sync, writing
from model_store.errors import StoreError
from model_store.labels import Label, Labels

FILE = "audit.jsonl"
LABELS: Sequence[Label] = ("live", "previous", "canary", "shadow")
_LINE_BYTES = 2048  # more than a line takes: two version names, and who asked


class LabelChange(BaseModel):
    """generation: of the labels that it led to. traffic: a canary's share afterwards.

    A version that was named again shows as `from` = `to`: services then try again what failed.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    generation: int
    at: str
    by: str
    label: Label
    from_: str | None = Field(alias="from")
    to: str | None
    traffic: float | None = None


def record(store: Path, before: Labels, after: Labels, *, asked: Label) -> None:
    """Call under `label_lock`, before `after` is written: then no label ever moves without its line.

    Durable when it returns; ReadOnlyStore when it cannot be. A line of which the end is missing stays as it is.
    """
    lines = "".join(change.model_dump_json(by_alias=True) + "\n" for change in changes(before, after, asked=asked))
    file = store / FILE
    if file.is_symlink():
        raise StoreError(f"{FILE} is a link")
    with writing():
        new = not file.exists()
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            content = (("\n" if torn else "") + lines).encode()
            if os.write(descriptor, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync(store)


def changes(before: Labels, after: Labels, *, asked: Label) -> list[LabelChange]:
    """One for each label that differs; the one that was asked for, where none does."""
    moved = [label for label in LABELS if getattr(before, label) != getattr(after, label)]
    return [
        LabelChange.model_validate(
            {
                "generation": after.generation,
                "at": after.at,
                "by": after.by,
                "label": label,
                "from": before.version_of(label),
                "to": after.version_of(label),
                "traffic": after.canary.traffic if label == "canary" and after.canary else None,
            }
        )
        for label in moved or [asked]
    ]


def read_changes(store: Path, labels: Labels | None, *, limit: int) -> list[LabelChange]:
    """The last `limit` changes, newest first. Damaged lines are passed over; no file yet is no change.

    labels: as they are now, None where nobody can tell. A line is written before its change, so after a crash between
    the two the next change takes the same generation: such a line tells of what never happened, and is left out.
    """
    found: list[LabelChange] = []
    next_generation, next_at = labels.generation + 1 if labels else None, ""
    for change in _backwards(store, limit=2 * limit):
        if change.at != next_at:
            if change.generation == next_generation:
                continue
            next_generation, next_at = change.generation, change.at
        found.append(change)
        if len(found) == limit:
            break
    return found


def _backwards(store: Path, *, limit: int) -> Iterator[LabelChange]:
    """Newest first, of the file's end only: it grows for as long as the store lives."""
    file = store / FILE
    try:
        with reading():
            if file.is_symlink():
                raise StoreError(f"{FILE} is a link")
            with file.open("rb") as opened:
                opened.seek(max(0, opened.seek(0, os.SEEK_END) - limit * _LINE_BYTES))
                lines = opened.read().split(b"\n")
    except FileNotFoundError:
        return
    for line in reversed(lines):
        try:
            yield LabelChange.model_validate_json(line)
        except ValidationError:  # torn by a crash, or cut by the seek above
            continue
