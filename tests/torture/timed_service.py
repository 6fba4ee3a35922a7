"""`python -m app` that logs how long each publish step takes: `python -m tests.torture.timed_service`."""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from app.logs import log_as_json
from app.server import serve
from app.settings import Settings
from app.versions import Versions

WORD = "publish step took"
_log = logging.getLogger(__name__)


def timed(publish: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(publish)
    def timing(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return publish(*arguments, **named)
        finally:
            milliseconds = (time.perf_counter() - started) * 1000
            _log.info("%s %.4f ms", WORD, milliseconds, extra={"ms": milliseconds})

    return timing


if __name__ == "__main__":
    log_as_json("info")
    Versions._publish = timed(Versions._publish)  # type: ignore[method-assign]
    sys.exit(serve(Settings.read(os.environ)))
