from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from app.file_lock import FileLock


def test_one_holder_and_never_a_wait(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.take()
    assert first.take()
    assert not second.take()
    assert not second.take(shared=True)
    first.release()
    first.release()
    assert second.take()
    second.release()


def test_shared_holders_keep_the_exclusive_one_out(tmp_path: Path) -> None:
    first, second, third = (FileLock(tmp_path / "lock") for _ in range(3))
    assert first.take(shared=True)
    assert second.take(shared=True)
    assert not third.take()
    first.release()
    assert not third.take()
    second.release()
    assert third.take()
    third.release()


def test_a_program_that_got_the_descriptor_holds_it_for_its_life(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.take()
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    heir = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(lock.descriptor(),))
    other = subprocess.Popen(command, stdin=subprocess.PIPE)
    lock.release()
    assert not lock.take()
    heir.kill()
    heir.communicate()
    assert lock.take(), "the other program, which lives, was handed nothing"
    lock.release()
    other.communicate(b"")
