from __future__ import annotations

import json
import logging

from app.logs import JsonLines


def line(**extra: object) -> dict[str, object]:
    record = logging.makeLogRecord({"name": "app.x", "levelname": "INFO", "msg": "%s é\n", "args": ("a",), **extra})
    text = JsonLines().format(record)
    assert "\n" not in text
    written: dict[str, object] = json.loads(text)
    return written


def test_one_object_per_line_with_what_was_given() -> None:
    written = line(request_id="l-1", version=None, ms=1.5)
    assert written["message"] == "a é\n"
    assert (written["level"], written["logger"]) == ("info", "app.x")
    assert (written["request_id"], written["ms"]) == ("l-1", 1.5)
    assert "version" not in written, "what is not known is not said"


def test_an_exception_is_part_of_the_line() -> None:
    try:
        raise ValueError("why")
    except ValueError as error:
        written = line(exc_info=(ValueError, error, error.__traceback__))
    assert "ValueError: why" in str(written["exception"])
