from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from offline.compare.scores import Costs, ScoreMeta, SeedScores, gather, read_meta, score_file

COSTS = Costs(
    encode_ms_p50=1,
    encode_ms_p99=2,
    encode_cpu_ms=1,
    request_ms_p50=1,
    request_ms_p99=2,
    request_cpu_ms=1,
    index_bytes=1,
    bundle_bytes=1,
    memory_bytes=1,
)


def meta(**changes: Any) -> ScoreMeta:
    given = {
        "arm": "sasrec",
        "family": "sasrec",
        "variant": "v",
        "protocol": "last-10",
        "seed": 1,
        "fingerprint": "f",
        "dataset": "tiny",
        "dataset_fingerprint": "d",
        "split_fingerprint": "s",
        "seen_removed": True,
        "depth": 20,
        "events": 3,
        "users": 2,
        "measured_at": "2026-01-01 00:00",
        "score_seconds": 1.5,
        "minutes": 10.0,
        "train_seconds": 60.0,
        "curve": [{"epoch": 1.0, "loss": 2.5}],
        "log": {"beta": 0.5},
        "costs": COSTS,
        "neighbours": {"Item 1": ["Item 2"]},
    }
    return ScoreMeta.model_validate(given | changes)


@pytest.mark.parametrize("depth", [20, 300])
def test_what_is_saved_is_what_is_read(tmp_path: Path, depth: int) -> None:
    ranks = np.array([1, 0, depth], dtype=np.int32)
    saved = SeedScores(meta(depth=depth), ranks, kept_E=ranks[::-1].copy())
    saved.save(tmp_path)
    file = score_file(tmp_path, "sasrec", "last-10", seed=1)
    read = SeedScores.read(file)
    assert read.meta == saved.meta == read_meta(file)
    np.testing.assert_array_equal(read.ranks_E, ranks)
    assert read.kept_E is not None
    np.testing.assert_array_equal(read.kept_E, ranks[::-1])
    assert read.among_E is None
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert read_meta(tmp_path / "none.npz") is None


def test_a_killed_write_leaves_nothing_that_looks_like_a_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(out: BinaryIO, **_: object) -> None:
        out.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", killed)
    with pytest.raises(KeyboardInterrupt):
        SeedScores(meta(), np.array([1], dtype=np.int32)).save(tmp_path)
    assert list(tmp_path.iterdir())
    assert not list(tmp_path.glob("*.npz"))


def test_a_measurement_counts_for_the_same_recipe_data_and_budget() -> None:
    def counts(measured: ScoreMeta, fingerprint: str = "f", split: str = "s", minutes: float = 10.0) -> bool:
        return measured.is_of(fingerprint, split_fingerprint=split, minutes=minutes)

    assert counts(meta())
    assert not counts(meta(), fingerprint="g")
    assert not counts(meta(), split="t")
    assert counts(meta(), minutes=5.0), "it ended by itself after one minute"
    assert not counts(meta(), minutes=1.0)
    assert not counts(meta(train_seconds=600.0), minutes=20.0), "it was cut off, and would have gone on"
    assert counts(meta(minutes=None, train_seconds=3.0), minutes=1.0), "closed forms have no budget"
    fusion = meta(train_seconds=3.0, longest_seconds=600.0)
    assert counts(fusion)
    assert not counts(fusion, minutes=20.0), "what it is made of was cut off"


def test_seeds_are_gathered_in_the_order_given() -> None:
    files = [SeedScores(meta(seed=seed), np.array([seed + 1, 0], dtype=np.int32)) for seed in (0, 1)]
    scores = gather(files, users_E=np.array([0, 1], dtype=np.int32))
    assert (scores.seeds, scores.arm, scores.kept_SE) == ((0, 1), "sasrec", None)
    np.testing.assert_array_equal(scores.ranks_SE, [[1, 0], [2, 0]])
    np.testing.assert_allclose(scores.ndcg10_SE, [[1, 0], [1 / np.log2(3), 0]])
