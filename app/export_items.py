"""`python -m app export-items FILE`: the live version's items with all changes since, as the next training reads them.

Columns item_id, title (a known year is part of it), text, categories; csv, tsv or parquet by the suffix.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import polars as pl

from app.embedded_valkey import EmbeddedValkey, ValkeyRefused
from app.item_log import ItemLog, ItemsUnavailable
from app.item_records import ItemRecord
from model_store.catalog import ItemCatalog
from model_store.errors import StoreError
from model_store.manifest import Manifest
from model_store.store import ModelStore
from model_store.verification import read_catalog

SEPARATOR = "|"  # between the categories of a text file, as the pipeline reads them by default
COLUMNS = ("item_id", "title", "text", "categories")
DEFAULT_STORE = "./model_store/bundles"
Records = dict[str, ItemRecord]


class ExportRefused(ValueError):
    """The table cannot be written as asked; the message names the cure."""


def merged(catalog: ItemCatalog, manifest: Manifest, records: Records) -> pl.DataFrame:
    """COLUMNS; a title that is only the id is null. The version's items keep their order, added ones follow, oldest
    change first.
    """
    frame = catalog.frame.select(COLUMNS)
    changes = [
        record
        for record in sorted(records.values(), key=lambda record: record.sequence)
        if not record.yields_to(manifest, has_item=catalog.row(record.item_id) is not None)
    ]
    removed = [record.item_id for record in changes if record.removed]
    put = pl.DataFrame(
        [(r.item_id, r.title, r.text, list(r.categories)) for r in changes if not r.removed],
        schema={"item_id": pl.String, "title": pl.String, "text": pl.String, "categories": pl.List(pl.String)},
        orient="row",
    )
    changed = frame.join(put, on="item_id", how="left", suffix="_put", maintain_order="left")
    is_put = pl.col("item_id").is_in(put["item_id"].implode())
    changed = changed.with_columns(
        pl.when(is_put).then(f"{name}_put").otherwise(name).alias(name) for name in ("title", "text", "categories")
    ).select(frame.columns)
    added = put.join(frame, on="item_id", how="anti", maintain_order="left")
    whole = pl.concat([changed, added], how="diagonal").filter(~pl.col("item_id").is_in(removed))
    return whole.with_columns(
        pl.when(pl.col("title") == pl.col("item_id")).then(None).otherwise("title").alias("title")
    )


def write_table(frame: pl.DataFrame, file: Path) -> None:
    """Whole or not at all. ExportRefused for a suffix that is none of the three, and for what text cannot hold."""
    if file.suffix not in (".csv", ".tsv", ".parquet"):
        raise ExportRefused(f"{file}: tables are .csv, .tsv or .parquet")
    partial = file.with_name(f".{file.name}.partial")
    try:
        if file.suffix == ".parquet":
            frame.write_parquet(partial)
        elif file.suffix == ".csv":
            _as_text(frame, file).write_csv(partial, quote_style="necessary")
        else:  # the pipeline reads no quotes here, so nothing may need one
            spaced = _as_text(frame, file).with_columns(pl.col(pl.String).str.replace_all(r"[\t\r\n]+", " "))
            spaced.write_csv(partial, separator="\t", quote_style="never")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _as_text(frame: pl.DataFrame, file: Path) -> pl.DataFrame:
    held = frame["categories"].explode().drop_nulls().str.contains(SEPARATOR, literal=True).any()
    if held:
        raise ExportRefused(f"{file}: a category holds '{SEPARATOR}', which separates them in text: write .parquet")
    return frame.with_columns(pl.col("categories").list.join(SEPARATOR))


@asynccontextmanager
async def item_log(url: str, data: Path) -> AsyncIterator[ItemLog]:
    """The log in Redis: of the data folder's own server where no url is given."""
    async with AsyncExitStack() as stack:
        if not url:
            embedded = EmbeddedValkey(data)
            url = await embedded.start()
            stack.push_async_callback(embedded.stop)
        log = ItemLog(url, most=1)
        stack.push_async_callback(log.close)
        yield log


async def _read(url: str, data: Path) -> Records:
    async with item_log(url, data) as log:
        return (await log.whole()).records


def main(argv: Sequence[str]) -> int:
    """The command; 0, or 1 with the reason on stderr."""
    given = _parser().parse_args(argv)
    try:
        store = ModelStore(given.store)
        version = given.version or store.labels().live
        if version is None:
            raise ExportRefused(f"{given.store}: no version is live. Cure: name one with --version.")
        manifest, catalog = store.manifest(version), read_catalog(store.folder(version))
        without = given.url.lower() == "none"
        records = {} if without else asyncio.run(_read(given.url, given.data))
        frame = merged(catalog, manifest, records)
        write_table(frame, given.file)
    except (StoreError, ItemsUnavailable, ValkeyRefused, OSError, ValueError) as error:
        sys.stderr.write(f"export-items: {error}\n")
        return 1
    sys.stdout.write(f"{len(frame)} items of {version} and {len(records)} changes since: {given.file}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app export-items", description=__doc__)
    parser.add_argument("file", type=Path, help="csv, tsv or parquet")
    parser.add_argument("--version", help="default: the live one")
    add_places(parser)
    return parser


def add_places(parser: argparse.ArgumentParser) -> None:
    """Where versions and changes are."""
    parser.add_argument("--store", type=Path, default=os.environ.get("NAISEKI_STORE") or DEFAULT_STORE)
    parser.add_argument("--url", default=os.environ.get("NAISEKI_REDIS_URL", ""), help="NAISEKI_REDIS_URL")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("NAISEKI_DATA") or ".naiseki", help="folder of the embedded Redis"
    )
