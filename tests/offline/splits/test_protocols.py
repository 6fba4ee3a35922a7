from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from offline.datasets import DataRefused, Interactions
from offline.datasets.assembly import assemble
from offline.datasets.config import TablesConfig
from offline.evaluation.score_matrix import evaluate_scores
from offline.splits.protocols import HELD, Protocol, split


def world(**lengths: int) -> Interactions:
    """Users of given lengths; user u's t-th event is item t."""
    users = [user for user, length in lengths.items() for _ in range(length)]
    items = [str(place) for length in lengths.values() for place in range(length)]
    events = pl.DataFrame({"user_id": users, "item_id": items}).with_columns(
        time_ms=pl.lit(None, pl.Int64), rating=pl.lit(None, pl.Float64)
    )
    listed = pl.DataFrame({"item_id": [str(place) for place in range(40)], "title": None, "text": None})
    listed = listed.with_columns(categories=pl.lit([], pl.List(pl.String)), year=pl.lit(None, pl.Int64))
    return assemble(events, listed, TablesConfig(name="world", interactions="-"), file="-")


@pytest.mark.parametrize("protocol", ["leave-one-out", "last-10"])
def test_which_event_is_what(protocol: Protocol) -> None:
    held = HELD[protocol]
    found = split(world(short=held + 1, enough=held + 2, long=30), protocol)
    train = [found.dataset.train.history(user).tolist() for user in range(3)]
    # A user too short to leave anything to train on stays whole in training, and asks nothing.
    assert train == [list(range(held + 1)), [0], list(range(30 - held - 1))]
    validation = found.dataset.validation
    assert validation.users.tolist() == [1, 2]
    assert validation.targets.tolist() == [1, 30 - held - 1]
    assert [validation.histories.history(q).tolist() for q in range(2)] == train[1:]
    assert found.test.users.tolist() == [1] * held + [2] * held
    for query, target in enumerate(found.test.targets.tolist()):
        assert found.test.histories.history(query).tolist() == list(range(target))
    assert found.test.targets[held:].tolist() == list(range(30 - held, 30))


def test_data_without_a_user_to_ask_about_are_refused_before_training() -> None:
    short = world(a=11, b=4)
    assert len(split(short, "leave-one-out").test) == 2
    with pytest.raises(DataRefused, match=r"world: no user has the 12 events.*last-10.*longest history has 11.*Cure"):
        split(short, "last-10")


def test_popularity_counts_training_events_only() -> None:
    found = split(world(a=3, b=5, c=2), "leave-one-out")
    # a trains on 0; b on 0, 1, 2; c (too short) on 0, 1.
    assert found.dataset.catalog.popularity[:4].tolist() == [3, 2, 1, 0]
    assert found.dataset.catalog.popularity.sum() == len(found.dataset.train.rows)


def test_titles_fall_back_to_the_id_and_carry_the_year() -> None:
    interactions = world(a=3)
    titled = interactions.items.with_columns(
        title=pl.Series(["Alien", None, "Brazil", *[None] * 37]), year=pl.Series([1979, None, None, 1985, *[None] * 36])
    )
    dataset = split(replace(interactions, items=titled), "leave-one-out").dataset
    assert dataset.catalog.titles(range(4)) == ["Alien (1979)", "1", "Brazil", "3 (1985)"]
    assert dataset.items["title"][:4].to_list() == ["Alien", None, "Brazil", None]


def test_data_and_protocol_name_the_split() -> None:
    small, large = world(a=13), world(a=14)
    names = {split(data, protocol).dataset.split_fingerprint for data in (small, large) for protocol in HELD}
    assert len(names) == 4
    assert split(small, "last-10").dataset.split_fingerprint in names


def test_ml_100k_has_the_known_number_of_events(ml_100k: Interactions) -> None:
    found = split(ml_100k, "last-10")
    assert (len(found.test), len(found.dataset.validation), len(found.dataset.train)) == (9_430, 943, 943)
    assert len(found.dataset.train.rows) == 100_000 - 11 * 943


def test_a_popularity_ranking_of_beauty_gives_the_known_figure(beauty: Interactions) -> None:
    test = split(beauty, "leave-one-out").test
    counts = np.bincount(beauty.item_rows, minlength=len(beauty.items)).astype(np.float64)
    scores = evaluate_scores(lambda histories: np.tile(counts, (len(histories), 1)), test, seen_removed=True)
    known = {"hr@5": 0.0080, "ndcg@5": 0.0044, "hr@10": 0.0152, "ndcg@10": 0.0068}
    assert {name: round(scores.values(name).mean(), 4) for name in known} == known
