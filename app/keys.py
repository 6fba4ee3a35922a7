"""Who may call what: bearer keys, compared in constant time."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.errors import Problem
from app.settings import Settings

_bearer = HTTPBearer(auto_error=False, description="a key of NAISEKI_API_KEYS or NAISEKI_ADMIN_KEYS")
_Given = HTTPAuthorizationCredentials | None


async def client(request: Request, given: _Given = Security(_bearer)) -> None:  # noqa: B008 - FastAPI's way
    settings = _settings(request)
    if not settings.open and not _known(given, settings.api_keys + settings.admin_keys):
        raise _missing()


async def admin(request: Request, given: _Given = Security(_bearer)) -> None:  # noqa: B008
    settings = _settings(request)
    if settings.open:
        _refuse_other_sites(request)
        return
    if _known(given, settings.admin_keys):
        return
    if _known(given, settings.api_keys):
        raise Problem("key-not-admin", "this call needs a key of NAISEKI_ADMIN_KEYS")
    raise _missing()


async def scraper(request: Request, given: _Given = Security(_bearer)) -> None:  # noqa: B008
    key = _settings(request).metrics_key
    if key is not None and not _known(given, (key,)):
        raise _missing()


def _settings(request: Request) -> Settings:
    settings = request.app.state.settings
    assert isinstance(settings, Settings)
    return settings


def _refuse_other_sites(request: Request) -> None:
    """Without keys, any page that a person on this machine has open could send a POST without a body."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Problem("key-not-admin", "no page of another site may do this; set NAISEKI_ADMIN_KEYS to allow it by key")


def _missing() -> Problem:
    return Problem("key-missing", "send a known key as Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})


def _known(given: _Given, keys: Iterable[str]) -> bool:
    if given is None:
        return False
    sent = given.credentials.encode()
    # Every key is compared, so that the time tells nothing of which one was near.
    return sum(hmac.compare_digest(sent, key.encode()) for key in keys) > 0
