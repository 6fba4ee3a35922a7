"""The command line: what it prints, what it refuses, and how."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from model_store.store import ModelStore
from offline import datasets
from offline.__main__ import main
from offline.run_config import RunConfig
from offline.splits.protocols import split

WriteRun = Callable[..., Path]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def offline(store: ModelStore, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must succeed; what it printed."""

    def command(*arguments: str | Path) -> str:
        status = main(["--store", str(store.root), *map(str, arguments)])
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return printed.out

    return command


@pytest.fixture
def refused(store: ModelStore, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must be refused; the one line that says why."""

    def command(*arguments: str | Path) -> str:
        status = main(["--store", str(store.root), *map(str, arguments)])
        printed = capsys.readouterr()
        assert (status, printed.out) == (2, "")
        assert printed.err.count("\n") == 1
        assert "Traceback" not in printed.err
        return printed.err

    return command


def test_run_publishes_a_version_per_seed_and_activates_the_last(
    offline: Callable[..., str], store: ModelStore, write_run: WriteRun
) -> None:
    printed = offline("run", write_run("tiny", "sasrec"), "--seeds", "0-1", "--activate")
    versions = store.list_names()
    assert {manifest.provenance.seed: manifest.version for manifest in store.list()} == dict(
        zip((0, 1), (line.removeprefix("published ") for line in printed.splitlines()[::2]), strict=True)
    )
    last = next(m.version for m in store.list() if m.provenance.seed == 1)
    assert store.labels().live == last
    assert printed.splitlines()[-1] == f"{last} is live"
    assert len(versions) == 2


def test_run_without_activate_moves_no_label(
    offline: Callable[..., str], store: ModelStore, write_run: WriteRun
) -> None:
    file = write_run("tiny", "ease", seed="4")
    (version,) = [line.removeprefix("published ") for line in offline("run", file).splitlines()]
    assert store.labels().live is None
    assert store.manifest(version).provenance.seed == 4
    assert offline("run", file) == f"published {version}\n"


def test_activate_if_better_goes_by_the_interval(
    offline: Callable[..., str], store: ModelStore, write_run: WriteRun
) -> None:
    # Ridge 10^6: all weights nearly zero, an order that says nothing.
    worse = write_run("worse", "ease", lam="1000000", tau="1000000")
    better = write_run("better", "ease", lam="5", tau="1")
    assert offline("run", worse, "--activate", "if-better").endswith("is live\n")
    first = store.labels().live
    printed = offline("run", better, "--activate", "if-better").splitlines()
    second = store.labels().live
    assert second != first
    assert printed[0] == f"published {second}"
    assert printed[1].startswith(f"{second} is better than {first} on these users: NDCG@10 +")
    assert printed[2] == f"{second} is live"
    again = write_run("again", "ease", lam="5.001", tau="1")
    printed = offline("run", again, "--activate", "if-better").splitlines()
    assert printed[1].startswith("The two cannot be told apart")
    assert printed[2] == f"{second} stays live"
    assert store.labels().live == second
    printed = offline("run", worse, "--activate", "if-better").splitlines()
    assert printed[1].startswith(f"{first} is worse than {second}")
    assert store.labels().live == second
    # What is live already is not compared with itself.
    assert offline("run", better, "--activate", "if-better").splitlines()[-1] == f"{second} is live"


def test_compare_versions_says_it_in_figures_and_in_words(
    offline: Callable[..., str], store: ModelStore, write_run: WriteRun
) -> None:
    offline("run", write_run("worse", "ease", lam="1000000", tau="1000000"))
    offline("run", write_run("better", "ease", lam="5", tau="1"))
    worse, better = (m.version for m in sorted(store.list(), key=lambda m: m.provenance.run, reverse=True))
    printed = offline("compare-versions", worse, better)
    assert printed.startswith("tiny, last-10, validation, seen items removed")
    assert printed.splitlines()[-1].startswith(f"{better} is better than {worse}")


def test_a_look_at_test_is_recorded_and_one_at_validation_is_not(
    offline: Callable[..., str], tmp_path: Path, write_run: WriteRun
) -> None:
    offline("run", write_run("one", "ease", lam="5"))
    offline("run", write_run("two", "sasrec"), "--seeds", "0,3")
    record = tmp_path / "EXPERIMENTS.md"
    looked = offline("evaluate", "run:one", "run:two", "--base", "run:one", "--cheap", "--record", record)
    assert "tiny, last-10, validation, seen items removed" in looked
    assert "| two | 2 |" in looked
    assert "| ease-recency | 1 |" in looked
    assert "| two against one |" in looked
    assert not record.exists()
    final = offline("evaluate", "run:one", "--final", "--keep-seen", "--record", record)
    assert "tiny, last-10, test, seen items kept" in final
    assert final.strip() in record.read_text()
    assert f"evaluate run:one --final --keep-seen --record {record}`" in record.read_text()


def test_tune_prints_trials_best_first(offline: Callable[..., str], write_run: WriteRun) -> None:
    file = write_run("tiny", "ease", lam="1000000", more='\n[tune]\n"lam" = [5]\n"tau" = [1]\n')
    lines = offline("tune", file, "--trials", "2", "--jobs", "1").splitlines()
    assert [line.split()[2] for line in lines] == ["1", "0"]
    assert lines[0].endswith("{'lam': 5, 'tau': 1}")


def test_training_events_are_exported_for_the_service(
    offline: Callable[..., str], tmp_path: Path, write_run: WriteRun
) -> None:
    file, exported = write_run("tiny", "ease"), tmp_path / "training.csv"
    printed = offline("data", file, "--export-training-events", exported)
    interactions = datasets.load(RunConfig.load(file).data)
    train = split(interactions, "last-10").dataset.train
    frame = pl.read_csv(exported)
    assert printed == f"{len(train.rows)} training events in {exported}\n"
    assert frame.columns == ["user_id", "item_id", "timestamp"]
    ids, times = interactions.items["item_id"], interactions.times_ms
    for row, user in enumerate(interactions.user_ids):
        theirs = frame.filter(user_id=user)
        assert theirs["item_id"].to_list() == [ids[item] for item in train.history(row).tolist()]
        own = times[interactions.users == row][: len(theirs)]
        assert theirs["timestamp"].to_list() == own.tolist()
    kept = offline("data", file, "--export-training-events", exported, "--protocol", "leave-one-out")
    assert int(kept.split()[0]) == len(split(interactions, "leave-one-out").dataset.train.rows)


def test_data_describes(offline: Callable[..., str], write_run: WriteRun) -> None:
    assert "24" in offline("data", write_run("tiny", "ease"))


def test_a_wrong_run_file_is_refused_in_one_line(refused: Callable[..., str], write_run: WriteRun) -> None:
    assert "no such run file" in refused("run", "none.toml")
    assert "recipe.dims" in refused("run", write_run("tiny", "sasrec", dims="8"))
    both = refused("run", write_run("tiny", "sasrec", dims="8", dropout='"a lot"'))
    assert "recipe.dims" in both
    assert "recipe.dropout" in both
    assert "[tune]" in refused("tune", write_run("tiny", "ease"))
    assert "recipe.lam.x" in refused("run", write_run("tiny", "ease", lam="5", more='\n[tune]\n"lam.x" = [1]\n'))


def test_a_folder_is_no_run_file(refused: Callable[..., str], tmp_path: Path) -> None:
    assert str(tmp_path) in refused("run", tmp_path)


def test_wrong_data_are_refused_in_one_line(refused: Callable[..., str], write_run: WriteRun, tables: Path) -> None:
    file = write_run("tiny", "ease")
    events = tables / "events.csv"
    text = events.read_text()
    events.write_text(text.replace("item_id", "film", 1))
    assert "no column 'item_id' (there are: user_id, film, timestamp)" in refused("run", file)
    events.unlink()
    assert "events.csv: there is no such file" in refused("run", file)
    assert "no data set has this name" in refused("data", "netflix")


def test_what_the_store_lacks_is_refused_in_one_line(
    refused: Callable[..., str], offline: Callable[..., str], write_run: WriteRun
) -> None:
    lm = write_run("lm", "e4srec", items_from='"run:start"', history_input='"id"')
    assert "run:start" in refused("run", lm)
    lm = write_run("lm", "e4srec", items_from='"20200101t000000-sasrec-0123456789ab"', history_input='"id"')
    assert "20200101t000000-sasrec-0123456789ab" in refused("run", lm)
    assert "run:none" in refused("evaluate", "run:none")
    assert "'none'" in refused("compare-versions", "none", "nothing")
    version = offline("run", write_run("one", "ease")).split()[1]
    assert "named twice" in refused("compare-versions", version, version)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["run", "x.toml", "--seeds", "3-1"], "3-1: the first is above the last"),
        (["run", "x.toml", "--seeds", "1,a"], "'1,a' is neither like 0-4 nor like 0,2,5"),
        (["tune", "x.toml", "--jobs", "0"], "'0' is not a number above 0"),
        (["publish"], "invalid choice"),
        ([], "required"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_begins(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err


def test_the_process_ends_with_one_line_and_status_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "offline", "--store", tmp_path, "run", "none.toml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "none.toml: there is no such run file\n"
