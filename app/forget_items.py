"""`python -m app forget-items`: drops changes of items that every version with a label knows by itself.

A change is needed as long as one labelled version would answer otherwise without it, so a rollback loses nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from app.embedded_valkey import ValkeyRefused
from app.export_items import add_places, item_log
from app.item_log import ItemsUnavailable
from app.item_records import ItemRecord
from model_store.catalog import ItemCatalog
from model_store.errors import StoreError
from model_store.manifest import Manifest
from model_store.store import ModelStore
from model_store.verification import read_catalog


def is_needed(record: ItemRecord, manifest: Manifest, catalog: ItemCatalog) -> bool:
    """Whether this version would show something else without the record."""
    has_item = catalog.row(record.item_id) is not None
    return has_item if record.removed else not record.yields_to(manifest, has_item=has_item)


async def forget(given: argparse.Namespace, store: ModelStore) -> tuple[int, int]:
    """How many were dropped, and how many stay."""
    versions = sorted(store.labels().versions())
    if not versions:
        raise StoreError("no version has a label, so nothing says which changes are still needed")
    known = [(store.manifest(version), read_catalog(store.folder(version))) for version in versions]
    async with item_log(given.url, given.data) as log:
        records = (await log.whole()).records
        old = [item_id for item_id, record in records.items() if not any(is_needed(record, *one) for one in known)]
        dropped = await log.forget(old) if old else 0
        return dropped, len(records) - dropped


def main(argv: Sequence[str]) -> int:
    """The command; 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m app forget-items", description=__doc__)
    add_places(parser)
    given = parser.parse_args(argv)
    try:
        dropped, left = asyncio.run(forget(given, ModelStore(given.store)))
    except (StoreError, ItemsUnavailable, ValkeyRefused, OSError, ValueError) as error:
        sys.stderr.write(f"forget-items: {error}\n")
        return 1
    sys.stdout.write(f"{dropped} changes dropped, {left} still needed\n")
    return 0
