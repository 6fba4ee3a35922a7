"""What cannot be is refused when the run file is read: the message names the file, both keys, and the cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from offline import families
from offline.__main__ import main
from offline.run_config import RunConfig, RunRefused

NEEDED = {
    "e4srec": 'items_from = "v"',
    "ilora": 'items_from = "v"',
    "llamarec": 'retriever = "v"',
    "fused": 'parts = ["v", "w"]',
}
# Family, the lines of [recipe], the keys and the cure that the message holds.
IMPOSSIBLE: list[tuple[str, str, list[str]]] = [
    ("ease", "lam = -1", ["lam", "greater than 0"]),
    ("fused", 'parts = ["v", "v"]', ["parts", "twice", "run:NAME@+1"]),
    ("fused", 'parts = ["v"]', ["parts", "at least 2"]),
    ("sasrec", "dim = 10\nheads = 4", ["dim = 10", "heads = 4", "multiple"]),
    ("sasrec", "distillation = 0.7", ["distillation = 0.7", "teacher", "set teacher"]),
    ("sasrec", "negatives = 10", ["negatives = 10", 'softmax = "full"', 'set softmax = "sampled"']),
    ("sasrec", 'softmax = "sampled"\nteacher = "v"', ['softmax = "sampled"', "teacher", 'set softmax = "full"']),
    ("e4srec", "residual = true\ntrain_items = true", ["residual", "train_items", "set train_items = false"]),
    ("e4srec", 'residual = true\nteacher = "v"', ["residual", "teacher", "set residual = false"]),
    ("e4srec", "distillation = 0.7", ["distillation = 0.7", "teacher", "set teacher"]),
    ("e4srec", 'item_input = "vocabulary"', ["item_input", 'history_input = "sum"', 'set history_input = "id"']),
    (
        "e4srec",
        'item_tower = "id+text"\ncold_start = "regression"',
        ["item_tower", "cold_start", 'set cold_start = "none"'],
    ),
    ("ilora", "experts = 3", ["lm.rank = 16", "experts = 3", "make it a multiple"]),
    ("ilora", 'gate = "history"\nsingle_target = false', ["gate", "single_target", "set single_target = true"]),
    ("ilora", "distillation = 0.5\nresidual = true", ["distillation = 0.5", "residual", "set distillation = 0"]),
    ("ilora", 'space = "common"\nresidual = true', ["residual", 'space = "common"', 'set space = "sasrec"']),
    ("ilora", 'item_tower = "text"', ["item_tower", 'space = "sasrec"', 'set space = "common"']),
    ("ilora", "dim = 8", ["dim = 8", 'space = "sasrec"', "leave dim out"]),
    ("ilora", "temperature = 0.1", ["temperature", 'space = "sasrec"', "leave temperature out"]),
    (
        "ilora",
        'space = "common"\nitem_tower = "text"\ncold_start = "regression"',
        ["cold_start", "per item ID", 'set cold_start = "none"'],
    ),
    ("contriever", 'item_tower = "id"', ["item_tower", "items_from", "set items_from"]),
    ("contriever", 'items_from = "v"', ["items_from", "item_tower", 'set item_tower = "id"']),
    (
        "contriever",
        'item_tower = "id"\nitems_from = "v"\nitem_training = "cached"',
        ["item_training", "item_tower", 'set item_training = "frozen"'],
    ),
    ("contriever", "chunk = 4", ["chunk = 4", "item_training", 'set item_training = "in_batch"']),
    ("contriever", 'suffix = "Next:"', ["suffix", "pooling", 'set pooling = "prompt"']),
    ("contriever", 'pooling = "prompt"\nsuffix = " "', ["pooling", "suffix", "write a suffix"]),
    ("contriever", 'pooling = "prompt"\nall_positions = true', ["pooling", "all_positions", "leave all_positions out"]),
    ("llm2vec", "all_positions = true", ["all_positions", "causal", "set causal = true"]),
    (
        "llm2vec",
        "all_positions = true\ncausal = true\ntargets_per_user = 3",
        ["all_positions", "targets_per_user", "leave targets_per_user out"],
    ),
    ("llamarec", 'ranker = "pointwise"', ["ranker", "vectors_from", "set vectors_from"]),
    ("llamarec", 'vectors_from = "w"', ["ranker", "vectors_from", "remove"]),
    ("llamarec", 'ranker = "pointwise"\nvectors_from = "w"\nfolds = 3', ["ranker", "folds", "remove"]),
    ("llamarec", "window = 1", ["window = 1", "set window = 2"]),
    ("llamarec", "folds = 1", ["folds = 1", "set folds = 2"]),
    ("llamarec", "popularity_debiasing = true", ["popularity_debiasing", "ranker", "the retriever's own run"]),
    ("sasrec", 'item_text = "{plot}"', ["item_text", "title, text, categories, year", "plot"]),
    ("sasrec", 'item_text = "film"', ["item_text", "without any field"]),
]
FINAL: list[tuple[str, str]] = [
    ("ilora", "out_of_fold = true"),
    ("llm2vec", ""),
]


def run_file(folder: Path, family: str, lines: str, *, head: str = "") -> Path:
    needed = NEEDED.get(family, "")
    if needed.partition(" ")[0] in (line.partition(" ")[0] for line in lines.splitlines()):
        needed = ""
    file = folder / "my-run.toml"
    file.write_text(
        f'protocol = "last-10"\n{head}\n[data]\nkind = "ml-100k"\n[recipe]\nfamily = "{family}"\n{needed}\n{lines}\n'
    )
    return file


def ids(value: Any) -> str | None:
    return value.replace("\n", ", ") if isinstance(value, str) else None


@pytest.mark.parametrize(("family", "lines", "said"), IMPOSSIBLE, ids=ids)
def test_an_impossible_pair_is_refused_by_name(family: str, lines: str, said: list[str], tmp_path: Path) -> None:
    file = run_file(tmp_path, family, lines)
    with pytest.raises(RunRefused) as refused:
        RunConfig.load(file)
    message = str(refused.value)
    assert message.startswith(f"{file}: recipe")
    assert [part for part in said if part not in message] == [], message
    assert "Value error" not in message
    assert "pydantic" not in message


def test_every_family_has_something_that_it_refuses() -> None:
    assert {family for family, _, _ in IMPOSSIBLE} == set(families.names())


@pytest.mark.parametrize(("family", "lines"), FINAL)
def test_a_final_fit_of_what_no_log_keeps_is_refused(family: str, lines: str, tmp_path: Path) -> None:
    file = run_file(tmp_path, family, lines, head="final_fit = true")
    with pytest.raises(RunRefused, match=r"my-run\.toml: final_fit = true with recipe.family .*set final_fit = false"):
        RunConfig.load(file)


def test_what_a_search_would_draw_is_looked_at_too(tmp_path: Path) -> None:
    file = run_file(tmp_path, "sasrec", "dim = 8", head="")
    file.write_text(file.read_text() + "[tune]\nheads = [1, 3]\n")
    with pytest.raises(RunRefused, match=r"my-run.*dim = 8.*heads = 3"):
        RunConfig.load(file)


@pytest.mark.parametrize("command", ["run", "tune"])
def test_the_command_says_it_in_one_line(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run_file(tmp_path, "ilora", 'space = "common"\nresidual = true')
    assert main([command, str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{file}: recipe: residual = true")
    assert 'space = "common"' in line
