from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from offline.datasets import DataRefused, Interactions
from offline.datasets.assembly import NO_ITEMS, assemble
from offline.datasets.config import TablesConfig
from offline.splits.protocols import fitted_events, split
from offline.splits.temporal import buckets


def timed(events: list[tuple[str, str, int | None]]) -> Interactions:
    """(user, item, seconds)."""
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "s"], orient="row")
    frame = frame.with_columns(time_ms=pl.col("s").cast(pl.Int64) * 1000, rating=pl.lit(None, pl.Float64))
    return assemble(frame, NO_ITEMS, TablesConfig(name="timed", interactions="-"), file="-")


def _ids(interactions: Interactions, rows: object) -> list[str]:
    return interactions.items["item_id"].gather(np.asarray(rows)).to_list()


@pytest.fixture
def world() -> Interactions:
    """One event a second: user `old` has 0..79, `mixed` 80..89 and 95..99, `new` 90..94; another user has no time."""
    owner = ["old"] * 80 + ["mixed"] * 10 + ["new"] * 5 + ["mixed"] * 5
    events: list[tuple[str, str, int | None]] = [(user, f"i{second % 85}", second) for second, user in enumerate(owner)]
    return timed([*events, ("timeless", "i3", None)])


def test_nothing_is_fitted_that_came_after_the_first_cut(world: Interactions) -> None:
    data = split(world, "temporal").dataset
    assert data.train.lengths.tolist() == [80, 0, 0, 0]
    assert data.catalog.popularity.sum() == 80
    fitted = fitted_events(world, "temporal")
    assert world.times_ms[fitted].max() == 79_000
    assert world.times_ms[fitted].min() >= 0


def test_the_history_is_true_up_to_each_event_validation_time_included(world: Interactions) -> None:
    data = split(world, "temporal")
    users = [world.user_ids[user] for user in data.test.users]
    assert users == ["mixed"] * 5 + ["new"] * 4  # the first event of `new` has no history
    for query, user in enumerate(data.test.users):
        history = data.test.histories.history(query).numpy()
        theirs = world.item_rows[world.users == user]
        assert theirs[: len(history)].tolist() == history.tolist()
        assert theirs[len(history)] == data.test.targets[query]


def test_events_of_the_same_second_are_not_history() -> None:
    events: list[tuple[str, str, int | None]] = [("u", f"i{second}", second) for second in range(20)]
    events += [("v", "a", 1), ("v", "b", 30), ("v", "c", 30), ("v", "d", 30)]
    world = timed(events)
    test = split(world, "temporal").test
    asked = {_ids(world, [t])[0]: _ids(world, test.histories.history(q)) for q, t in enumerate(test.targets)}
    assert asked["b"] == asked["c"] == asked["d"] == ["a"]


def test_a_user_gives_ten_queries_at_most_and_users_weigh_alike() -> None:
    events: list[tuple[str, str, int | None]] = [("u", f"i{second}", second) for second in range(100)]
    events += [("w", "i1", 5), ("w", "i2", 98)]
    test = split(timed(events), "temporal").test
    assert np.bincount(test.users).tolist() == [10, 1]
    assert test.weights is not None
    assert np.bincount(test.users, weights=test.weights).tolist() == pytest.approx([1, 1])
    assert test.histories.history(0).tolist() == list(range(len(test.histories.history(0))))  # the first ten


def test_buckets_say_who_and_what_was_in_training(world: Interactions) -> None:
    data = split(world, "temporal")
    found = buckets(data)
    assert found["user new"].all()  # `mixed` begins after the first cut
    popularity = data.dataset.catalog.popularity[data.test.targets]
    assert found["item new"].tolist() == (popularity == 0).tolist()
    assert (found["item new"] ^ found["item known"]).all()


def test_data_without_times_are_refused(small_world: Interactions) -> None:
    timeless = timed([("u", f"i{n}", None) for n in range(30)])
    with pytest.raises(DataRefused, match=r"no event has the time.*temporal"):
        split(timeless, "temporal")
    with pytest.raises(DataRefused, match="too many share one time"):
        split(timed([("u", f"i{n}", 7) for n in range(30)]), "temporal")


def test_on_ml_100k_most_test_users_are_new(ml_100k: Interactions) -> None:
    data = split(ml_100k, "temporal")
    assert 0.5 < buckets(data)["user new"].mean() < 1
    assert len(data.dataset.train.rows) == pytest.approx(80_000, rel=0.01)
