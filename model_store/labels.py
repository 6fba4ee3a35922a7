"""`labels.json`: which versions are wanted. One small file, replaced whole."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.durable import reading, sync, write_durably, writing
from model_store.errors import StoreError
from model_store.manifest import VersionName

FILE = "labels.json"
LOCK = ".labels.lock"
Label = Literal["live", "previous", "canary", "shadow"]
TRIALS: tuple[Label, ...] = ("canary", "shadow")


class Canary(BaseModel):
    """traffic: share of users, 0..1, by a hash of (salt, user id)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: VersionName
    traffic: Annotated[float, Field(ge=0, le=1)]


class Labels(BaseModel):
    """What is wanted. `generation` grows with every change of what is wanted, and never for `last_good`.

    salt: of the canary's hash; kept for the life of the store, so that a growing share only adds users.
    by, at: who changed it last, and when (RFC 3339, UTC).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    generation: Annotated[int, Field(ge=0)] = 0
    live: VersionName | None = None
    previous: VersionName | None = None
    canary: Canary | None = None
    shadow: VersionName | None = None
    last_good: VersionName | None = None
    salt: str = ""
    by: str = ""
    at: str = ""

    def versions(self) -> set[str]:
        """Every version that carries a label."""
        canary = self.canary.version if self.canary else None
        return {name for name in (self.live, self.previous, canary, self.shadow, self.last_good) if name}

    def version_of(self, label: Label) -> str | None:
        if label == "canary":
            return self.canary.version if self.canary else None
        version: str | None = getattr(self, label)
        return version

    def labelled(self, label: Label, version: str | None, *, by: str, traffic: float | None = None) -> Labels:
        """The labels after `version` got `label`; None takes it away (not from `live`).

        A version that becomes `live` makes the former one `previous`, and is no canary and no shadow any more. Naming
        the live version again changes only the generation: services then try again what failed to load.
        StoreError when the live version would get another label.
        """
        if label not in get_args(Label):
            raise ValueError(f"{label!r} is not one of {', '.join(get_args(Label))}")
        if version is None and label == "live":
            raise ValueError("a store cannot be without a live version once it has one")
        if (traffic is not None) != (label == "canary" and version is not None):
            raise ValueError("a canary needs its share of traffic, and no other label has one")
        if traffic is not None and not 0 <= traffic <= 1:
            raise ValueError(f"traffic is a share between 0 and 1, not {traffic:g}")
        if label != "live" and version is not None and version == self.live:
            raise StoreError(f"{version} is live: it cannot be {label} too")
        changes: dict[str, object] = {label: version}
        if label == "canary" and version is not None:
            changes["canary"] = {"version": version, "traffic": traffic}
        if label == "live":
            changes["previous"] = self.previous if self.live == version else self.live
            changes |= self._not_beside(version)
        return self._changed(changes, by=by)

    def rolled_back(self, *, by: str) -> Labels:
        """`live` and `previous` swapped; StoreError when there is no previous version."""
        if self.previous is None:
            raise StoreError("there is no previous version to go back to")
        return self._changed({"live": self.previous, "previous": self.live, **self._not_beside(self.previous)}, by=by)

    def _not_beside(self, live: str | None) -> dict[str, object]:
        """A canary or shadow of itself would measure nothing."""
        return {label: None for label in TRIALS if live is not None and self.version_of(label) == live}

    def good(self, version: str) -> Labels:
        """`last_good` moved, the generation kept."""
        return Labels.model_validate(self.model_dump() | {"last_good": version})

    def _changed(self, changes: dict[str, object], *, by: str) -> Labels:
        stamp = {
            "generation": self.generation + 1,
            "salt": self.salt or secrets.token_hex(16),
            "by": by,
            # In microseconds: the audit tells by it two changes of one generation, of which one never happened.
            "at": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }
        return Labels.model_validate(self.model_dump() | changes | stamp)


def read_labels(store: Path) -> Labels:
    """Generation 0 and no label where there is no file yet. StoreError when it is damaged or cannot be read."""
    file = store / FILE
    try:
        with reading():
            if file.is_symlink():
                raise StoreError(f"{FILE} is a link")
            return Labels.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return Labels()
    except ValidationError as error:
        cure = "restore it, or remove it and label a version again"
        raise StoreError(f"{FILE} is damaged ({error.errors()[0]['msg']}): {cure}") from error


def write_labels(store: Path, labels: Labels) -> None:
    """Call under `label_lock`. A reader, or a crash at any moment, finds the old file or the new one."""
    temporary = store / f".{FILE}.new"
    with writing():
        write_durably(temporary, (labels.model_dump_json(indent=2) + "\n").encode())
        temporary.replace(store / FILE)
        sync(store)


@contextmanager
def label_lock(store: Path) -> Iterator[None]:
    """One process or thread at a time reads, decides and writes. The kernel frees the lock when its holder dies."""
    if not store.is_dir():
        raise StoreError(f"there is no store at {store}")
    with writing():
        descriptor = os.open(store / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
