"""RecBole's atomic files: tab-separated, column names with a type behind a colon, lists parted by spaces."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from offline.datasets import assembly
from offline.datasets.config import RecBoleConfig
from offline.datasets.interactions import Interactions
from offline.datasets.reading import expand, read_table
from offline.datasets.tables import events_of, items_of


def load(config: RecBoleConfig) -> Interactions:
    folder = expand(config.folder)
    stem = config.stem or folder.name
    events_file, items_file = folder / f"{stem}.inter", folder / f"{stem}.item"
    events = events_of(read_atomic(events_file), config.columns, file=events_file, time_unit=config.time_unit)
    items = assembly.NO_ITEMS
    if items_file.exists():
        items = items_of(read_atomic(items_file), config.item_columns, file=items_file, separator=" ")
    return assembly.assemble(events, items, config, file=str(events_file))


def read_atomic(file: Path) -> pl.DataFrame:
    """The table under its bare column names."""
    return read_table(file).rename(lambda name: name.partition(":")[0])
