"""What the service is told from outside, read once from the environment (NAISEKI_*)."""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.key_ring import refuse_half_hashes

PREFIX = "NAISEKI_"
SCHEMES = ("redis", "rediss", "unix")
OF_THE_PIPELINE = {"cache", "beauty"}  # often set where the service is started too: no slip of the pen
_log = logging.getLogger(__name__)


class SettingsRefused(ValueError):
    """The environment asks for something that the service will not do; the message names the variable and the cure."""


def _keys(value: object) -> object:
    """Keys are listed with commas or spaces between them."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _one_key(value: str | None) -> str | None:
    refuse_half_hashes((value,) if value is not None else ())
    return value


def _redis(value: str) -> str:
    """The address itself stays out of the message: it may hold a password."""
    try:
        usable = value.lower() == "none" or (urlsplit(value).scheme in SCHEMES and urlsplit(value).port != 0)
    except ValueError:  # a port that is no number
        usable = False
    if not usable:
        raise ValueError("give an address redis://host:6379/0, rediss://... or unix:///path, or none for no histories")
    return value


Keys = Annotated[tuple[str, ...], BeforeValidator(_keys), AfterValidator(refuse_half_hashes), Field(repr=False)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _cores() -> int:
    """All cores but the one that the event loop needs; more than eight do not help one batch."""
    return max(1, min(8, (os.cpu_count() or 1) - 1))


class Settings(BaseModel):
    """One field per variable; the name is the field's in capitals after NAISEKI_. An empty variable counts as unset.

    api_keys, admin_keys, metrics_key: as they are, or as `sha256:` and their digest.
    store: folder of bundles. data: folder for the embedded Redis, and the cache of prepared bundles.
    redis_url: of the histories; unset = a server that the service runs itself; none = no histories.
    threads: of the inference thread's matrix products. max_batch_ms: the longest that one batch of several may take.
    items_added: items that may be put or removed between two trainings.
    queue_tokens: what may wait before 429. hang_seconds: a batch that takes longer, and four times its estimate, hangs:
    the process ends.
    keep_previous: in memory, so that a rollback is instant. swap: resource-preserving = the old version is unloaded
    before the next one is loaded, popular items meanwhile, and a rollback is a load: for a card that holds only one.
    models_kept: versions that operators may keep in memory under no label. memory_margin: a version is refused unless
    so many times its estimated memory is free; 0 does not ask. shadow_share: of the live requests, copied to a shadow.
    body_bytes: the largest request body. head_bytes: of request line and headers. url_bytes: of path and query.
    client_seconds: for a request's head, for its body, and for taking its answer. connections: beyond it, 503.
    rate_per_second: requests of one key (of one address where there are none) to this process; 0 for no limit.
    rate_burst: what may come at once; by default those of two seconds.
    click_window: seconds after an answer within which a click counts as its.
    grace_seconds: between readiness off and the closing of the listener. shutdown_seconds: for what is in flight then.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: Path = Path("model_store/bundles")
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    api_keys: Keys = ()
    admin_keys: Keys = ()
    metrics_key: Annotated[str | None, AfterValidator(_one_key), Field(repr=False)] = None
    redis_url: Annotated[Annotated[str, AfterValidator(_redis)] | None, Field(repr=False)] = None
    data: Path = Path(".naiseki")
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    threads: Count = Field(default_factory=_cores)
    max_batch_tokens: Count = 8192
    max_batch_ms: Seconds = 150.0
    queue_tokens: Count = 32768
    hang_seconds: Seconds = 1.0
    body_bytes: Count = 2**20
    head_bytes: Annotated[int, Field(ge=1024)] = 2**15
    url_bytes: Annotated[int, Field(ge=256)] = 2**13
    client_seconds: Seconds = 20.0
    connections: Count = 1000
    rate_per_second: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    rate_burst: Count | None = None
    history_kept: Count = 2000
    click_window: Seconds = 1800.0
    items_added: Count = 10_000
    keep_previous: bool = True
    poll_seconds: Seconds = 1.0
    load_seconds: Seconds = 900.0
    swap: Literal["availability-preserving", "resource-preserving"] = "availability-preserving"
    models_kept: Annotated[int, Field(ge=0)] = 2
    memory_margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.1
    shadow_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    grace_seconds: Annotated[float, Field(ge=0, le=300)] = 2.0
    shutdown_seconds: Count = 20
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """Settings from NAISEKI_* variables; SettingsRefused names each one that cannot be used."""
        given = {name: value for name, value in environment.items() if name.startswith(PREFIX) and value.strip()}
        fields = {name.removeprefix(PREFIX).lower(): value for name, value in given.items()}
        unknown = sorted(set(fields) - set(cls.model_fields) - OF_THE_PIPELINE)
        if unknown:
            _log.warning("not a setting of the service: %s", ", ".join(PREFIX + name.upper() for name in unknown))
        try:
            settings = cls(**{name: value for name, value in fields.items() if name in cls.model_fields})  # type: ignore[arg-type]
        except ValidationError as error:
            reasons = [f"{PREFIX}{str(one['loc'][0]).upper()}: {one['msg']}" for one in error.errors()]
            raise SettingsRefused("; ".join(reasons)) from None
        settings.refuse_open_door()
        return settings

    @property
    def open(self) -> bool:
        """No key is set at all: everybody who reaches the port may do everything."""
        return not self.api_keys and not self.admin_keys

    @property
    def without_histories(self) -> bool:
        return (self.redis_url or "").lower() == "none"

    def refuse_open_door(self) -> None:
        if self.open and not is_loopback(self.host):
            raise SettingsRefused(
                f"NAISEKI_HOST={self.host} is reachable from other machines, and no key is set: "
                "set NAISEKI_API_KEYS and NAISEKI_ADMIN_KEYS, or bind 127.0.0.1"
            )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
