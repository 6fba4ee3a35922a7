from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from tokenizers import Tokenizer

from model_store.encoders.history import HistoryBatch
from model_store.encoders.token_row import TokenBlocks
from model_store.token_blocks import tokenize_blocks
from offline.datasets import Interactions
from offline.datasets.assembly import assemble
from offline.datasets.config import TablesConfig
from offline.language.item_text import item_texts
from offline.splits.protocols import split
from offline.splits.sequences import SequenceDataset
from offline.text_stages.serialised_histories import SerialisedHistories


@pytest.fixture
def dataset(small_world: Interactions) -> SequenceDataset:
    return split(small_world, "last-10").dataset


def _blocks(dataset: SequenceDataset, tiny_base: Path) -> TokenBlocks:
    texts = [f" {text}\n" for text in item_texts(dataset.items, "{title} ({year})")]
    return tokenize_blocks(tiny_base / "tokenizer.json", texts)


@pytest.fixture
def histories(dataset: SequenceDataset, tiny_base: Path) -> SerialisedHistories:
    return SerialisedHistories(dataset, _blocks(dataset, tiny_base), prefix=(1, 2), max_history=5)


def test_every_training_event_is_written_once_and_users_are_held_out_whole(
    histories: SerialisedHistories, dataset: SequenceDataset
) -> None:
    written = torch.cat((histories.train.rows, histories.held_out.rows)).sort().values
    assert torch.equal(written, dataset.train.rows.sort().values)
    assert int(histories.train.lengths.max()) == 5
    held = [u for u in range(60) if torch.equal(dataset.train.history(u)[:5], histories.held_out.history(0))]
    assert held
    assert len(histories.held_out) < len(histories.train) / 5


def test_a_window_reads_as_prefix_and_item_blocks(histories: SerialisedHistories, tiny_base: Path) -> None:
    windows = HistoryBatch.of([[3, 0], [7]])
    found = histories.written(windows)
    tokenizer = Tokenizer.from_file(str(tiny_base / "tokenizer.json"))
    texts = ["a b Item 3 (2003) Item 0 (2000)", "a b Item 7 (2002)"]
    assert found.tokens_S.tolist() == [token for text in texts for token in tokenizer.encode(text).ids]
    assert histories.tokens(windows).tolist() == found.row.lengths == [8, 5]


def test_portions_read_everything_once_before_anything_twice(histories: SerialisedHistories) -> None:
    whole = int(histories.tokens(histories.train).sum())
    parts = [histories.portion(number, tokens=100, seed=3) for number in range(2 * whole // 100 + 1)]
    read = [tuple(part.history(b).tolist()) for part in parts for b in range(len(part))]
    count = len(histories.train)
    assert sorted(read[:count]) == sorted(tuple(histories.train.history(b).tolist()) for b in range(count))
    assert sorted(read[count : 2 * count]) == sorted(read[:count])
    assert read[count : 2 * count] != read[:count]
    assert all(60 < int(histories.tokens(part).sum()) < 140 for part in parts[:-1])
    again = histories.portion(4, tokens=100, seed=3)
    assert torch.equal(again.rows, parts[4].rows)


def test_a_portion_smaller_than_a_window_still_has_one(histories: SerialisedHistories) -> None:
    assert all(len(histories.portion(number, tokens=1, seed=0)) for number in range(40))


def test_titles_that_only_validation_and_test_hold_are_not_in_the_corpus(tiny_base: Path) -> None:
    """Planted: users whose last eleven events are of two items that nobody has before."""
    rows = [(f"u{user}", f"i{step % 20}") for user in range(6) for step in range(20)]
    rows += [(f"u{user}", item) for user in range(6) for item in ["secret1", *["secret2"] * 10]]
    events = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").with_row_index("time_ms")
    events = events.sort("user_id", "time_ms").with_columns(
        pl.col("time_ms").cast(pl.Int64), rating=pl.lit(None, dtype=pl.Float64)
    )
    titles = pl.DataFrame({"item_id": [*(f"i{n}" for n in range(20)), "secret1", "secret2"]}).with_columns(
        title=pl.concat_str(pl.lit("Item "), pl.col("item_id").str.replace("secret", "5").str.replace("i", "")),
        text=pl.lit(None, dtype=pl.String),
        categories=pl.lit(["c"]),
        year=pl.lit(2000),
    )
    config = TablesConfig(name="leak", interactions="-", repeat="keep")
    dataset = split(assemble(events, titles, config, file="-"), "last-10").dataset
    blocks = _blocks(dataset, tiny_base)
    secrets = set(tokenize_blocks(tiny_base / "tokenizer.json", ["51 52"]).tokens.tolist())
    assert secrets <= set(blocks.tokens.tolist()), "the catalogue knows them"
    assert len(secrets) == 2

    def corpus(of: SequenceDataset) -> set[int]:
        histories = SerialisedHistories(of, blocks, prefix=(), max_history=50)
        windows = [histories.train, histories.held_out]
        return {token for part in windows for token in histories.written(part).tokens_S.tolist()}

    assert not secrets & corpus(dataset)
    leaking = replace(dataset, train=dataset.validation.histories)
    assert not secrets & corpus(leaking), "validation histories end before their target"
    whole = [torch.cat((h, torch.tensor([t], dtype=torch.int32))) for h, t in _with_targets(dataset)]
    assert secrets & corpus(replace(dataset, train=HistoryBatch.of(whole))), "a corpus that leaks is noticed"


def _with_targets(dataset: SequenceDataset) -> list[tuple[torch.Tensor, int]]:
    queries = dataset.validation
    return [(queries.histories.history(q), int(queries.targets[q])) for q in range(len(queries))]


def test_cold_items_are_in_no_corpus(small_world: Interactions, tiny_base: Path) -> None:
    dataset = split(small_world, "cold-items-0").dataset
    cold = set(dataset.cold_items.nonzero()[0].tolist())
    assert cold
    histories = SerialisedHistories(dataset, _blocks(dataset, tiny_base), prefix=(), max_history=5)
    assert not cold & {*histories.train.rows.tolist(), *histories.held_out.rows.tolist()}


def test_one_user_alone_is_refused(dataset: SequenceDataset, tiny_base: Path) -> None:
    alone = replace(dataset, train=HistoryBatch.of([dataset.train.history(0), []]))
    with pytest.raises(ValueError, match="two users"):
        SerialisedHistories(alone, _blocks(dataset, tiny_base), prefix=(), max_history=5)
