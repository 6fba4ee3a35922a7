"""The command as it is called, against the embedded server."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from app.embedded_valkey import EmbeddedValkey
from app.import_events import import_frame, main
from app.user_history import HistoriesUnavailable, StoredEvent, UserHistories


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("NAISEKI_REDIS_URL", raising=False)
    folder = Path(tempfile.mkdtemp(prefix="naiseki-test-"))
    yield folder
    shutil.rmtree(folder)


def stored(data: Path, *user_ids: str) -> list[list[StoredEvent]]:
    async def run() -> list[list[StoredEvent]]:
        valkey = EmbeddedValkey(data)
        histories = await UserHistories.open(await valkey.start(), timeout_s=2.0)
        try:
            return [await histories.read_events(user_id) for user_id in user_ids]
        finally:
            await histories.close()
            await valkey.stop()

    return asyncio.run(run())


def test_import_and_repeat(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = data / "log.tsv"
    rows = [f"{n % 7}\tm{n}\t{900_000_000 + (n * 7919) % 3000}" for n in range(3000)]
    file.write_text("who\twhat\twhen\n" + "\n".join(rows))
    columns = ["--user-column", "who", "--item-column", "what", "--time-column", "when"]
    assert main([str(file), *columns, "--data", str(data / "d")]) == 0
    said = capsys.readouterr()
    assert "3000 events of 7 users" in said.out
    assert "3000 accepted, 0 duplicate, 0 old" in said.out
    assert "100%" in said.err
    assert main([str(file), *columns, "--data", str(data / "d")]) == 0
    assert "0 accepted, 3000 duplicate, 0 old" in capsys.readouterr().out

    for user, events in zip("036", stored(data / "d", "0", "3", "6"), strict=True):
        expected = sorted(((900_000_000 + (n * 7919) % 3000) * 1000, n) for n in range(3000) if n % 7 == int(user))
        assert events == [StoredEvent(f"m{n}", at) for at, n in expected]


def test_long_histories_keep_the_newest(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = data / "log.csv"
    rows = [f"{user},i{n},{n + 1}" for n in range(2500) for user in ("long", "other")]
    file.write_text("user_id,item_id,timestamp\n" + "\n".join(reversed(rows)))
    arguments = [str(file), "--data", str(data / "d"), "--kept", "1000", "--time-unit", "ms"]
    assert main(arguments) == 0
    assert "5000 accepted" in capsys.readouterr().out
    assert main(arguments) == 0
    assert ": 0 accepted," in capsys.readouterr().out
    for events in stored(data / "d", "long", "other"):
        assert 750 < len(events) <= 1000
        assert events == [StoredEvent(f"i{n}", n + 1) for n in range(2500)][-len(events) :]


def test_without_times_the_order_of_the_file_counts(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = data / "log.csv"
    file.write_text("user_id,item_id\n" + "\n".join(f"u{n % 2},i{n % 5}" for n in range(20)))
    for outcome in ("20 accepted, 0 duplicate", "0 accepted, 20 duplicate"):
        assert main([str(file), "--data", str(data / "d")]) == 0
        assert outcome in capsys.readouterr().out
    [events] = stored(data / "d", "u0")
    assert [event.item_id for event in events] == [f"i{n % 5}" for n in range(0, 20, 2)]


def test_a_row_without_time_stays_where_the_file_has_it(data: Path) -> None:
    frame = pl.DataFrame(
        {
            "user_id": ["u", "u", "u", "u", "v"],
            "item_id": ["b", "c", "a", "d", "x"],
            "timestamp_ms": [None, 50, 20, None, None],
        },
        schema_overrides={"timestamp_ms": pl.Int64},
    )

    async def run() -> None:
        valkey = EmbeddedValkey(data)
        histories = await UserHistories.open(await valkey.start(), timeout_s=2.0, write_timeout_s=2.0)
        done: list[int] = []
        counts = await import_frame(frame, histories, progress=done.append)
        assert (counts.users, counts.accepted, sum(done)) == (2, 5, 5)
        assert await histories.read("u") == ["a", "d", "b", "c"]
        assert await histories.read_events("v") == [StoredEvent("x", 4)]
        await histories.close()
        await valkey.stop()

    asyncio.run(run())


def test_redis_gone_halfway_stops_and_a_repetition_completes(data: Path) -> None:
    frame = pl.DataFrame({"user_id": ["u"] * 3000, "item_id": [f"i{n}" for n in range(3000)]}).with_columns(
        timestamp_ms=pl.int_range(3000, dtype=pl.Int64)
    )

    async def run() -> None:
        valkey = EmbeddedValkey(data)
        histories = await UserHistories.open(await valkey.start(), kept=5000, timeout_s=2.0, write_timeout_s=2.0)
        await histories._writes.config_set("maxmemory", "1")
        with pytest.raises(HistoriesUnavailable):
            await import_frame(frame, histories)
        await histories._writes.config_set("maxmemory", "0")
        await import_frame(frame.head(1500), histories)
        counts = await import_frame(frame, histories)
        assert (counts.accepted, counts.duplicate) == (1500, 1500)
        await histories.close()
        await valkey.stop()

    asyncio.run(run())


def test_into_a_redis_by_its_address_beside_a_running_service(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = data / "log.csv"
    file.write_text("user_id,item_id\nu,a\n")

    async def run() -> None:
        service = EmbeddedValkey(data / "d")
        url = await service.start()
        histories = await UserHistories.open(url, timeout_s=2.0)
        assert await asyncio.to_thread(main, [str(file), "--url", url]) == 0
        assert await histories.read("u") == ["a"]
        assert await asyncio.to_thread(main, [str(file), "--data", str(data / "d")]) == 0
        assert "1 duplicate" in capsys.readouterr().out
        assert await histories.read("u") == ["a"], "the import left the service's server running"
        await histories.close()
        await service.stop()

    asyncio.run(run())


def test_refusals(data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    file = data / "log.csv"
    file.write_text("user_id,item_id\nu,a\nu,\n")
    assert main([str(file), "--data", str(data / "d")]) == 1
    assert "data row 2" in capsys.readouterr().err
    assert not (data / "d").exists(), "nothing is started for a file that cannot be used"
    file.write_text("user_id,item_id\nu,a\n")
    assert main([str(file), "--url", f"unix://{data}/nobody"]) == 1
    assert "Run it again" in capsys.readouterr().err
    for wrong in (["--url", "none"], ["--kept", "0"], ["--time-unit", "weeks"]):
        with pytest.raises(SystemExit) as stopped:
            main([str(file), *wrong])
        assert stopped.value.code == 2
    monkeypatch.setenv("NAISEKI_REDIS_URL", "none")
    with pytest.raises(SystemExit):
        main([str(file)])
    assert "'none' is no redis://" in capsys.readouterr().err
