"""Tables that the next offline run reads, and changes that nothing needs any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from app.embedded_valkey import EmbeddedValkey
from app.export_items import item_log, main
from app.forget_items import main as forget
from app.item_records import written

if TYPE_CHECKING:
    from tests.app.conftest import Pair

Put = Callable[..., None]


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A data folder whose Redis runs for the whole test: each command would else start and stop one."""
    with asyncio.Runner() as runner:
        embedded = EmbeddedValkey(tmp_path / "data")
        runner.run(embedded.start())
        yield tmp_path / "data"
        runner.run(embedded.stop())


def store_changes(data: Path) -> None:
    async def write() -> None:
        async with item_log("", data) as log:
            log._most = 100
            for title, categories in (("First", ()), ('Says "no"', ("sea", "hill"))):
                await log.write("new", written(title=title, text="Tab\there", categories=categories))
            await log.write("beta-2", written(title="Changed", categories=("moved",)))
            await log.write("beta-1", written(removed=True))
            await log.write("gone", written(title="Gone"))
            await log.write("gone", written(removed=True))

    asyncio.run(write())


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_the_table_holds_the_catalogue_with_its_changes(
    pair: Pair, data: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store_changes(data)
    file = tmp_path / f"items.{suffix}"
    assert main([str(file), "--store", str(pair.store.root), "--data", str(data)]) == 0
    assert "60 items" in capsys.readouterr().out
    if suffix == "parquet":
        frame = pl.read_parquet(file)
    else:
        frame = pl.read_csv(
            file, separator="," if suffix == "csv" else "\t", quote_char='"' if suffix == "csv" else None
        )
        frame = frame.with_columns(pl.col("categories").str.split("|"))
    lines = {line["item_id"]: line for line in frame.iter_rows(named=True)}
    assert list(lines)[:3] == ["beta-0", "beta-2", "beta-3"], "a removed item is left out, the others keep their order"
    assert list(lines)[-1] == "new"
    assert len(lines) == 60
    assert lines["new"]["title"] == 'Says "no"'
    assert lines["new"]["text"] == ("Tab here" if suffix == "tsv" else "Tab\there")
    assert lines["new"]["categories"] == ["sea", "hill"]
    assert (lines["beta-2"]["title"], lines["beta-2"]["text"]) == ("Changed", None)
    assert lines["beta-3"]["categories"] == ["third"]


def test_what_cannot_be_written_is_refused_in_words(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--store", str(pair.store.root), "--url", "none"]
    assert main([str(tmp_path / "items.xlsx"), *places]) == 1
    assert ".parquet" in capsys.readouterr().err
    assert main([str(tmp_path / "items.csv"), *places, "--version", "no-such"]) == 1
    assert "no-such" in capsys.readouterr().err
    assert not list(tmp_path.glob("*items.*"))


def test_only_what_no_labelled_version_needs_is_forgotten(
    pair: Pair, data: Path, published: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    store_changes(data)
    arguments = ["--store", str(pair.store.root), "--data", str(data)]
    assert forget(arguments) == 0
    assert "1 changes dropped, 3 still needed" in capsys.readouterr().out, "a tombstone of an item that none has"
    newer = published(pair.store, "beta", seed=2)
    pair.store.activate(newer, by="test")
    assert forget(arguments) == 0
    assert "0 changes dropped" in capsys.readouterr().out, "the previous version still needs them"
    pair.store.activate(newer, by="test")
    pair.store.label("previous", None, by="test")
    pair.store.mark_good(newer)
    assert forget(arguments) == 0
    assert "1 changes dropped, 2 still needed" in capsys.readouterr().out, "the catalogue has beta-2 anew, and no `new`"
