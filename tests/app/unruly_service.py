"""A service whose encoder does what the test wants: `python unruly_service.py`, with NAISEKI_* variables.

The newest item of a history decides. Everything else is the real thing.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from app import server
from app.logs import log_as_json
from app.settings import Settings
from model_store.bundle import Bundle
from model_store.encoders.history import Encoded, HistoryBatch


def hang() -> None:
    threading.Event().wait()


def hang_with_the_interpreter() -> None:
    re.match("(a+)+b", "a" * 60)


def poison() -> None:
    raise ValueError("poison")


def exit_the_thread() -> None:
    raise SystemExit


WISHES: dict[int, Callable[[], Any]] = {
    50: hang,
    51: hang_with_the_interpreter,
    52: poison,
    53: exit_the_thread,
    54: lambda: time.sleep(1.0),
    55: lambda: time.sleep(60.0),
}


def main() -> int:
    encode = Bundle.encode

    def unruly(self: Bundle, histories: HistoryBatch, states: Any = None) -> Encoded:
        for b in range(len(histories)):
            WISHES.get(int(histories.history(b)[-1]), lambda: None)()
        return encode(self, histories, states)

    setattr(Bundle, "encode", unruly)  # noqa: B010 - mypy
    server.STILL_SECONDS = float(os.environ.get("STILL_SECONDS", server.STILL_SECONDS))
    log_as_json("info")
    return server.serve(Settings.read(os.environ))


if __name__ == "__main__":
    sys.exit(main())
