"""Who may call what, and how often: bearer keys, and on a service without any, who is on this machine."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers

from app.errors import Problem
from app.key_ring import KeyRing
from app.metrics import Metrics
from app.rate_limit import RateLimit
from app.settings import Settings, is_loopback

_bearer = HTTPBearer(auto_error=False, description="a key of NAISEKI_API_KEYS or NAISEKI_ADMIN_KEYS")
_Given = HTTPAuthorizationCredentials | None


@dataclass(frozen=True, slots=True)
class Door:
    """Made once per app. limit: None where nobody is limited."""

    open: bool
    clients: KeyRing
    admins: KeyRing
    scrapers: KeyRing | None
    limit: RateLimit | None
    metrics: Metrics

    @classmethod
    def of_settings(cls, settings: Settings, metrics: Metrics) -> Door:
        rate = settings.rate_per_second
        return cls(
            settings.open,
            KeyRing(settings.api_keys + settings.admin_keys),
            KeyRing(settings.admin_keys),
            KeyRing((settings.metrics_key,)) if settings.metrics_key is not None else None,
            RateLimit(rate, settings.rate_burst or math.ceil(2 * rate)) if rate else None,
            metrics,
        )

    @staticmethod
    def of(request: Request) -> Door:
        door = request.app.state.door
        assert isinstance(door, Door)
        return door

    def opens(self, headers: Headers) -> bool:
        """Whether a client with these headers may come in; nobody is counted."""
        if self.open:
            return True
        scheme, key = get_authorization_scheme_param(headers.get("authorization"))
        return scheme.lower() == "bearer" and self.clients.knows(key)

    def missing(self, request: Request) -> Problem:
        """Who guesses keys is limited by his address; those who know one are not delayed by it."""
        self.admit(f"guess {_address(request)}")
        return Problem("key-missing", "send a known key as Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})

    def admit(self, caller: str) -> None:
        """Problem `rate-limited` when this caller has asked too often."""
        wait_s = self.limit.take(caller) if self.limit is not None else 0.0
        if wait_s > 0:
            self.metrics.rejects.labels("rate-limited").inc()
            wait = str(math.ceil(wait_s))
            raise Problem("rate-limited", f"you ask too often; try again in {wait} s", {"Retry-After": wait})


async def client(request: Request, given: _Given = Security(_bearer)) -> None:  # noqa: B008 - FastAPI's way
    door = Door.of(request)
    if not door.open and not _known(given, door.clients):
        raise door.missing(request)
    caller = _address(request) if given is None or door.open else _name(given)
    request.state.caller = caller
    door.admit(caller)


async def admin(request: Request, given: _Given = Security(_bearer)) -> None:  # noqa: B008
    """Not limited: whoever must roll back while a client runs wild has to get through."""
    door = Door.of(request)
    if door.open:
        _refuse_other_sites(request)
        return
    if _known(given, door.admins):
        return
    if _known(given, door.clients):
        raise Problem("key-not-admin", "this call needs a key of NAISEKI_ADMIN_KEYS")
    raise door.missing(request)


async def scraper(request: Request, given: _Given = Security(_bearer)) -> None:  # noqa: B008
    door = Door.of(request)
    if door.scrapers is not None and not _known(given, door.scrapers):
        raise door.missing(request)


def charge(request: Request, more: int) -> None:
    """The call was let in as one request, and turns out to be `more` besides."""
    door = Door.of(request)
    if door.limit is not None and more > 0:
        door.limit.owe(request.state.caller, more)


def _refuse_other_sites(request: Request) -> None:
    """Without keys, any page that a person on this machine has open could send a POST without a body.

    Its Origin tells of it; and a page whose name was pointed at this machine meanwhile, so that it seems to be its own
    site (DNS rebinding), tells its name as the Host.
    """
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    if not is_loopback(_name_of(host)) or (origin is not None and origin.partition("://")[2] != host):
        raise Problem("key-not-admin", "no page of another site may do this; set NAISEKI_ADMIN_KEYS to allow it by key")


def _name_of(host: str) -> str:
    """Of `name:port`, `[address]:port`, or either without a port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".").lower()


def _known(given: _Given, keys: KeyRing) -> bool:
    return given is not None and keys.knows(given.credentials)


def _name(given: HTTPAuthorizationCredentials) -> str:
    return "key " + hashlib.sha256(given.credentials.encode()).hexdigest()


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
