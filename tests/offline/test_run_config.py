from __future__ import annotations

from pathlib import Path

import pytest

from offline.run_config import RunConfig, RunRefused

GOOD = """
protocol = "last-10"
[data]
kind = "ml-100k"
[recipe]
family = "sasrec"
dim = 32
[tune]
"dim" = [16, 32]
"fit.batch" = [8]
"""


def _write(folder: Path, text: str) -> Path:
    file = folder / "my-run.toml"
    file.write_text(text)
    return file


def test_a_run_file_is_read(tmp_path: Path) -> None:
    config = RunConfig.load(_write(tmp_path, GOOD))
    assert (config.name, config.family, config.protocol) == ("my-run", "sasrec", "last-10")
    assert config.recipe.model_dump()["dim"] == 32
    assert config.with_seed(4).recipe.seed == 4
    assert config.varied({"fit.batch": 8}).recipe.model_dump()["fit"]["batch"] == 8


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("dim = 32", "dims = 32", "recipe.dims"),
        ("dim = 32", 'dim = "many"', "recipe.dim"),
        ('family = "sasrec"', 'family = "bert4rec"', "recipe.family"),
        ('family = "sasrec"', "", "family"),
        ('kind = "ml-100k"', 'kind = "netflix"', "data"),
        ('protocol = "last-10"', 'protocol = "random"', "protocol"),
        ('"fit.batch" = [8]', '"fit.batches" = [8]', "recipe.fit.batches"),
        ('protocol = "last-10"', "protocol = ", "not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, old: str, new: str, named: str) -> None:
    with pytest.raises(RunRefused, match="my-run") as refused:
        RunConfig.load(_write(tmp_path, GOOD.replace(old, new)))
    assert named in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunRefused, match="no such run file"):
        RunConfig.load(tmp_path / "none.toml")


def test_every_run_file_that_ships_is_valid() -> None:
    files = sorted((Path(__file__).parents[2] / "offline/runs").glob("*.toml"))
    assert len(files) >= 4
    for file in files:
        RunConfig.load(file)


def test_the_checkpoint_folder_depends_on_what_the_weights_depend_on(tmp_path: Path) -> None:
    config = RunConfig.load(_write(tmp_path, GOOD))
    names = {
        config.fingerprint(split_fingerprint="a", parents={}),
        config.fingerprint(split_fingerprint="b", parents={}),
        config.fingerprint(split_fingerprint="a", parents={"items_from": "v1"}),
        config.with_seed(1).fingerprint(split_fingerprint="a", parents={}),
    }
    assert len(names) == 4


def test_a_default_stays_a_default_when_something_else_changes(tmp_path: Path) -> None:
    text = GOOD.partition("[recipe]")[0] + '[recipe]\nfamily = "e4srec"\nitems_from = "v"\nresidual = true\n'
    config = RunConfig.load(_write(tmp_path, text))
    # Refused only where a file asks for both.
    assert config.with_seed(3).recipe == config.recipe.model_copy(update={"seed": 3})
    assert config.varied({"fit.batch": 8}).recipe.model_dump()["fit"]["epochs"] == 30
    with pytest.raises(RunRefused, match="train_items"):
        config.varied({"train_items": True})


def test_a_key_below_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunRefused, match=r"recipe\.dim\.x"):
        RunConfig.load(_write(tmp_path, GOOD.replace('"dim" = [16, 32]', '"dim.x" = [1]')))


def test_a_section_written_in_part_keeps_the_family_s_other_values(tmp_path: Path) -> None:
    text = (
        GOOD.split("[recipe]")[0]
        + """[recipe]
family = "e4srec"
items_from = "v"
[recipe.fit]
epochs = 3
[recipe.lm]
keep_layers = 2
"""
    )
    recipe = RunConfig.load(_write(tmp_path, text)).recipe.model_dump()
    assert recipe["fit"]["epochs"] == 3
    assert recipe["fit"]["item_learning_rate"] == 1e-4
    assert recipe["lm"]["keep_layers"] == 2
