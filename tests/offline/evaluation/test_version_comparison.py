from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store.store import ModelStore
from offline.evaluation.baselines import CHEAP_ROWS, Popularity
from offline.evaluation.bootstrap import Contrast, compare
from offline.evaluation.comparison_text import as_text, order_drops, verdict
from offline.evaluation.looks_at_test import record_final
from offline.evaluation.metrics import Floats
from offline.evaluation.score_matrix import evaluate_scores
from offline.evaluation.version_comparison import Figures, Table, is_better, side_by_side
from offline.evaluation.version_scores import split_of
from offline.pipeline import run
from offline.run_config import RunConfig, RunRefused
from offline.workspace import Workspace

WriteRun = Callable[..., Path]
SideBySide = Callable[..., Table]


@pytest.fixture
def publish(write_run: WriteRun, store: ModelStore, workspace: Workspace) -> Callable[..., str]:
    def published(name: str, family: str, *, seed: int = 0, **settings: str) -> str:
        config = RunConfig.load(write_run(name, family, **settings)).with_seed(seed)
        return run(config, store=store, workspace=workspace)

    return published


@pytest.fixture
def table_of(store: ModelStore, workspace: Workspace) -> SideBySide:
    def made(*references: str, base: str | None = None, **more: bool) -> Table:
        return side_by_side(
            list(references),
            base=base,
            subset="test",
            keep_seen=more.get("keep_seen", False),
            cheap=more.get("cheap", False),
            lists=more.get("lists", False),
            store=store,
            workspace=workspace,
        )

    return made


def test_figures_are_means_over_seeds(publish: Callable[..., str], table_of: SideBySide) -> None:
    versions = [publish("net", "sasrec", seed=seed) for seed in (0, 1)]
    (of_run,) = table_of("run:net").rows
    singles = table_of(*versions).rows
    assert (of_run.name, of_run.seeds, of_run.per_event_SE.shape) == ("net", 2, (2, 240))
    assert [row.name for row in singles] == versions
    assert singles[0].ndcg10 != singles[1].ndcg10
    assert of_run.ndcg10 == pytest.approx((singles[0].ndcg10 + singles[1].ndcg10) / 2, abs=1e-12)
    assert of_run.hr10 == pytest.approx((singles[0].hr10 + singles[1].hr10) / 2, abs=1e-12)
    assert of_run.low < of_run.ndcg10 < of_run.high


def test_contrasts_are_against_the_base(publish: Callable[..., str], table_of: SideBySide) -> None:
    good, same, bad = publish("good", "ease", lam="5"), publish("same", "ease", lam="5.0001"), publish("net", "sasrec")
    table = table_of(good, same, bad, base=good)
    assert [(c.family, c.base) for c in table.contrasts] == [(same, good), (bad, good)]
    assert table.contrasts[0].difference == 0
    figures = {row.name: row.ndcg10 for row in table.rows}
    assert table.contrasts[1].difference == pytest.approx(figures[bad] - figures[good], abs=1e-12)
    assert table_of(good, bad).contrasts == []
    text = as_text(table)
    assert text.startswith("tiny, last-10, test, seen items removed; full ranking\n")
    for name in (good, same, bad):
        assert f"| {name} | 1 | {figures[name]:.4f} |" in text
    assert f"| {bad} against {good} | " in text


@pytest.mark.parametrize("residual", [True, False])
def test_seeds_are_drawn_together_where_one_run_stands_beside_the_other(
    publish: Callable[..., str], table_of: SideBySide, monkeypatch: pytest.MonkeyPatch, *, residual: bool
) -> None:
    asked: list[object] = []

    def watched(*arguments: Any, **settings: Any) -> list[Contrast]:
        asked.append(settings["paired"])
        return compare(*arguments, **settings)

    monkeypatch.setattr("offline.evaluation.version_comparison.compare", watched)
    more = {"residual": "true", "train_items": "false"} if residual else {}
    for seed in (0, 1):
        publish("net", "sasrec", seed=seed)
        publish("lm", "e4srec", seed=seed, items_from='"run:net"', history_input='"id"', **more)
    table_of("run:lm", "run:net", base="run:net")
    publish("net", "sasrec", seed=2)
    table_of("run:lm", "run:net", base="run:net")
    assert asked == [{"lm": "net"} if residual else {}, {}]


def test_seen_items_kept_are_other_figures(publish: Callable[..., str], table_of: SideBySide) -> None:
    version = publish("good", "ease", lam="5")
    kept = table_of(version, keep_seen=True)
    assert kept.rows[0].ndcg10 != table_of(version).rows[0].ndcg10
    assert "seen items kept" in as_text(kept)


def test_data_whose_items_may_come_back_is_measured_so_everywhere(
    write_run: WriteRun, table_of: SideBySide, store: ModelStore, workspace: Workspace
) -> None:
    file = write_run("repeats", "ease", lam="5")
    file.write_text(file.read_text().replace('name = "tiny"\n', 'name = "tiny"\nexclude_seen = false\n'))
    version = run(RunConfig.load(file), store=store, workspace=workspace)
    assert not any(metric.seen_removed for metric in store.manifest(version).metrics)
    table = table_of(version)
    assert not table.seen_removed
    assert table.rows[0].ndcg10 == table_of(version, keep_seen=True).rows[0].ndcg10
    # The same run file with another [data] is another run: what was chosen on validation was chosen otherwise.
    file.write_text(file.read_text().replace("exclude_seen = false\n", ""))
    assert run(RunConfig.load(file), store=store, workspace=workspace) != version


def test_cheap_rows_stand_beside_and_are_measured_alike(
    publish: Callable[..., str], table_of: SideBySide, store: ModelStore
) -> None:
    version = publish("good", "ease", lam="5")
    table = table_of(version, base=version, cheap=True)
    assert [row.name for row in table.rows] == [version, *CHEAP_ROWS]
    assert [contrast.family for contrast in table.contrasts] == [*CHEAP_ROWS]
    data = split_of(store.manifest(version))
    popularity = evaluate_scores(Popularity(data.dataset), data.test, seen_removed=True).values("ndcg@10").mean()
    assert table.rows[1].ndcg10 == pytest.approx(float(popularity), abs=1e-12)


def test_what_the_lists_are_like_stands_in_every_row(publish: Callable[..., str], table_of: SideBySide) -> None:
    version = publish("good", "ease", lam="5")
    table = table_of(version, cheap=True, lists=True)
    coverage = {row.name: row.lists["coverage@10"] for row in table.rows}
    assert set(coverage) == {version, *CHEAP_ROWS}
    assert 0 < coverage["popularity"] < coverage[version] <= 1
    assert f"| {version} | {coverage[version]:.3f} |" in as_text(table)
    assert table_of(version).rows[0].lists == {}


def test_shuffled_histories_cost_what_order_tells(publish: Callable[..., str], store: ModelStore) -> None:
    publish("plain", "ease", lam="5")
    publish("recent", "ease", lam="5", tau="2")
    text = order_drops(["run:plain", "run:recent"], subset="test", store=store)
    lines = [line.split(" | ") for line in text.splitlines()[2:]]
    assert [line[1] for line in lines] == ["all", "all but last"] * 2
    assert float(lines[2][2].rstrip("%")) > 5


def test_what_cannot_stand_side_by_side_is_refused(publish: Callable[..., str], table_of: SideBySide) -> None:
    one, other = publish("one", "ease"), publish("other", "ease", protocol="leave-one-out")
    with pytest.raises(RunRefused, match="different splits"):
        table_of(one, other)
    with pytest.raises(RunRefused, match=f"named twice: {one}"):
        table_of(one, one)
    with pytest.raises(RunRefused, match=f"base {other} is none of"):
        table_of(one, base=other)
    publish("ease", "ease", lam="9")
    with pytest.raises(RunRefused, match="named twice: ease"):
        table_of("run:ease", cheap=True)


def _table(ours: Floats, base: Floats) -> Table:
    users = np.arange(len(base), dtype=np.int32)
    rows = [Figures(n, 1, x.mean(), 0, 1, 0, x[None], {}) for n, x in (("ours", ours), ("theirs", base))]
    contrasts = compare({"ours": ours[None], "theirs": base[None]}, users, contrasts=[("ours", "theirs")], draws=2_000)
    return Table("tiny", "last-10", "validation", True, rows, contrasts)


BASE = np.random.default_rng(0).random(400)
NOISE = np.random.default_rng(1).normal(size=400)


@pytest.mark.parametrize(
    ("ours", "begins", "says", "better"),
    [
        (BASE + 0.05 + 0.1 * NOISE, "ours is better than theirs on these users: NDCG@10 +", "%", True),
        (BASE - 0.05 + 0.1 * NOISE, "ours is worse than theirs on these users: NDCG@10 -", "%", False),
        (BASE + 0.2 * NOISE, "The two cannot be told apart on these users", "would show", False),
        (BASE, "The two cannot be told apart on these users: NDCG@10 differs by +0.0%", "holds 0", False),
    ],
)
def test_the_verdict_claims_no_more_than_the_interval(ours: Floats, begins: str, says: str, better: bool) -> None:
    table = _table(ours, BASE)
    sentence = verdict(table)
    assert sentence.startswith(begins)
    assert says in sentence
    assert sentence.count("\n") == 0
    assert is_better(table.contrasts[0]) == better


def test_a_base_without_a_single_hit_is_beaten_in_absolute_figures() -> None:
    table = _table(0.2 + 0.01 * BASE, np.zeros(400))
    assert verdict(table).startswith("ours is better than theirs on these users: NDCG@10 +0.20")
    assert "nan" not in verdict(table)
    assert "cannot be told apart" in verdict(_table(np.zeros(400), np.zeros(400)))


def test_looks_at_test_are_added_to_the_record(tmp_path: Path) -> None:
    file = tmp_path / "EXPERIMENTS.md"
    file.write_text("# Experiments\n")
    table = _table(BASE + 0.05, BASE)
    for name in ("a", "b"):
        record_final(table, f"python -m offline evaluate {name} --final", file=file)
    text = file.read_text()
    assert text.startswith("# Experiments\n\n### Look at test, 2")
    assert text.count("### Look at test") == 2
    assert "`python -m offline evaluate a --final`" in text
    assert text.count(as_text(table)) == 2
