from __future__ import annotations

import itertools

import pytest

from app.metrics import SECONDS, Metrics


def test_buckets_grow_by_half_from_a_quarter_millisecond_to_ten_seconds() -> None:
    assert SECONDS[0] == 0.00025
    assert 9 < SECONDS[-1] <= 10
    for smaller, larger in itertools.pairwise(SECONDS):
        assert larger / smaller == pytest.approx(1.5, rel=1e-3)


def test_series_of_an_unloaded_version_go_and_come_back_from_zero() -> None:
    metrics = Metrics()
    for version in ("a", "b"):
        metrics.stages(version, "live").encode.observe(0.1)
        metrics.stages(version, "previous").impressions.inc()
    metrics.forget("a")
    text = metrics.text().decode()
    assert 'version="a"' not in text
    assert 'naiseki_encode_seconds_count{label="live",version="b"} 1.0' in text
    metrics.stages("a", "live").encode.observe(0.1)
    assert 'naiseki_encode_seconds_count{label="live",version="a"} 1.0' in metrics.text().decode()


def test_what_others_count_is_asked_at_the_scrape() -> None:
    metrics, errors, depth = Metrics(), {"timeout": 2}, [3.0]
    metrics.count("redis_errors", "Failed", "kind", lambda: errors)
    metrics.watch("queue_depth", "Waiting", lambda: depth[0])
    errors["timeout"], depth[0] = 5, 7.0
    text = metrics.text().decode()
    assert 'naiseki_redis_errors_total{kind="timeout"} 5.0' in text
    assert "naiseki_queue_depth 7.0" in text


def test_two_apps_do_not_share_a_registry() -> None:
    one, other = Metrics(), Metrics()
    one.dropped.inc()
    assert other.registry.get_sample_value("naiseki_dropped_entries_total") == 0
