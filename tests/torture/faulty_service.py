"""`python -m app` whose inference thread can be hurt from outside: `python -m tests.torture.faulty_service`.

SIGUSR1 raises MemoryError in the inference thread, wherever that is. SIGUSR2 arms two histories: one that holds the row
POISONED makes the model raise, one that holds HANGING makes it never come back.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from app.logs import log_as_json
from app.server import serve
from app.settings import Settings
from model_store.bundle import Bundle

POISONED, HANGING = 13, 17


def raise_in_thread(number: int, frame: FrameType | None) -> None:
    for thread in threading.enumerate():
        if thread.name == "inference" and thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(MemoryError))


def arm(number: int, frame: FrameType | None) -> None:
    encode = Bundle.encode

    def hurt(self: Bundle, histories: Any, *rest: Any, **named: Any) -> Any:
        rows = set(histories.rows.tolist())
        if HANGING in rows:
            while True:  # as a deadlock in a library: the thread is there, and does nothing any more
                time.sleep(1)
        if POISONED in rows:
            raise RuntimeError("a poisoned history")
        return encode(self, histories, *rest, **named)

    Bundle.encode = hurt  # type: ignore[method-assign]


if __name__ == "__main__":
    log_as_json("info")
    signal.signal(signal.SIGUSR1, raise_in_thread)
    signal.signal(signal.SIGUSR2, arm)
    sys.exit(serve(Settings.read(os.environ)))
