"""`python -m app import-events FILE`: fills histories from a log, so that users are known on day one.

May be repeated: what is there already counts as duplicate (or old, where a history was cut).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from tqdm import tqdm

from app.embedded_valkey import EmbeddedValkey, ValkeyRefused
from app.event_log import TIME_UNITS, LogColumns, LogRefused, read_log
from app.user_history import Event, HistoriesRefused, HistoriesUnavailable, UserHistories

_EVENTS_PER_CALL = 1000
"""A call holds up the other users of Redis: some 10 ms when all of it belongs to one user."""
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ImportCounts:
    users: int
    accepted: int
    duplicate: int
    old: int


async def import_frame(
    frame: pl.DataFrame, histories: UserHistories, *, progress: Callable[[int], object] | None = None
) -> ImportCounts:
    """Appends all events of `frame`, each user's in order of time.

    frame: user_id, item_id: text; timestamp_ms: int64, nullable. Equal times keep the frame's order. A row without time
    takes that of the user's previous row (or next, at the start); a user without any takes row numbers, so that a
    repetition finds the same events.
    progress: told how many events were done since it was told last.
    Raises HistoriesUnavailable; what was appended by then stays.
    """
    ordered = _in_time_order(frame)
    counts = {"accepted": 0, "duplicate": 0, "old": 0}
    for rows in ordered.iter_slices(_EVENTS_PER_CALL):
        events = [Event(user_id, item_id, timestamp_ms, None) for user_id, item_id, timestamp_ms in rows.iter_rows()]
        for outcome in await histories.append(events):
            if isinstance(outcome, HistoriesUnavailable):
                raise outcome
            counts[outcome] += 1
        if progress is not None:
            progress(len(events))
    return ImportCounts(users=frame["user_id"].n_unique(), **counts)


def _in_time_order(frame: pl.DataFrame) -> pl.DataFrame:
    """user_id, item_id, timestamp_ms without nulls; users in order of first appearance."""
    row = pl.int_range(pl.len(), dtype=pl.Int64)
    filled = pl.col("timestamp_ms").forward_fill().backward_fill().over("user_id")
    return (
        frame.with_columns(pl.coalesce(filled, row), row.min().over("user_id").alias("first_row"))
        .sort("first_row", "timestamp_ms", maintain_order=True)
        .select("user_id", "item_id", "timestamp_ms")
    )


def main(argv: Sequence[str]) -> int:
    """The command; 0, or 1 with the reason on stderr."""
    arguments = _parser().parse_args(argv)
    columns = LogColumns(arguments.user_column, arguments.item_column, arguments.time_column, arguments.time_unit)
    started = time.monotonic()
    try:
        frame = read_log(arguments.file, columns)
        counts = asyncio.run(_import(frame, arguments))
    except (LogRefused, HistoriesRefused, ValkeyRefused) as error:
        sys.stderr.write(f"import-events: {error}\n")
        return 1
    except HistoriesUnavailable as error:
        sys.stderr.write(f"import-events: stopped: {error}. Run it again: what is there is not appended twice.\n")
        return 1
    sys.stdout.write(
        f"{len(frame)} events of {counts.users} users in {time.monotonic() - started:.1f} s: "
        f"{counts.accepted} accepted, {counts.duplicate} duplicate, {counts.old} old\n"
    )
    return 0


async def _import(frame: pl.DataFrame, arguments: argparse.Namespace) -> ImportCounts:
    embedded = None if arguments.url else EmbeddedValkey(arguments.data)
    url = arguments.url if embedded is None else await embedded.start()
    try:
        histories = await UserHistories.open(url, kept=arguments.kept, timeout_s=_TIMEOUT_S, write_timeout_s=_TIMEOUT_S)
        try:
            await histories.check()
            with tqdm(total=len(frame), desc="events", unit="", mininterval=0.5) as bar:
                return await import_frame(frame, histories, progress=bar.update)
        finally:
            await histories.close()
    finally:
        if embedded is not None:
            await embedded.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app import-events", description=__doc__)
    parser.add_argument("file", type=Path, help="csv, tsv (also .gz) or parquet")
    parser.add_argument("--user-column", default="user_id")
    parser.add_argument("--item-column", default="item_id")
    parser.add_argument("--time-column", help="default: timestamp where there is one, else the order of the file")
    parser.add_argument("--time-unit", default="auto", choices=["auto", "iso", *TIME_UNITS])
    parser.add_argument("--url", type=_url, default=os.environ.get("NAISEKI_REDIS_URL", ""), help="NAISEKI_REDIS_URL")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("NAISEKI_DATA") or ".naiseki", help="folder of the embedded Redis"
    )
    parser.add_argument(
        "--kept", type=_kept, default=os.environ.get("NAISEKI_HISTORY_KEPT") or "2000", help="events per user"
    )
    return parser


def _url(text: str) -> str:
    if text and not text.startswith(("redis://", "rediss://", "unix://")):
        raise argparse.ArgumentTypeError(f"'{text}' is no redis://, rediss:// or unix:// address to import into")
    return text


def _kept(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of events")
    return int(text)
