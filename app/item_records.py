"""What is known of items that were put or removed while the service runs, as it lies in Redis."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from model_store.manifest import Manifest

_SEQUENCE = re.compile(r"\d{1,15}-\d{1,15}", re.ASCII)


class Sequence(NamedTuple):
    """The id of an entry in a Redis stream: milliseconds since 1970 by Redis's clock, and a number within them. Ids of
    one stream only grow, so they order all changes."""

    ms: int
    number: int

    @classmethod
    def read(cls, text: str) -> Sequence:
        """ValueError for anything that is no such id."""
        if not _SEQUENCE.fullmatch(text):
            raise ValueError(f"{text[:40]!r} is no sequence number")
        ms, number = text.split("-")
        return cls(int(ms), int(number))

    def __str__(self) -> str:
        return f"{self.ms}-{self.number}"


START = Sequence(0, 0)


class _Stored(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)  # a newer program may write more

    removed: StrictBool = False
    title: StrictStr = ""
    text: StrictStr | None = None
    categories: Annotated[tuple[StrictStr, ...], Field(max_length=1000)] = ()
    schema_: Annotated[StrictInt, Field(alias="schema", le=1)] = 1


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """The last change of one item. removed: a tombstone, and then title, text and categories say nothing."""

    item_id: str
    sequence: Sequence
    title: str = ""
    text: str | None = None
    categories: tuple[str, ...] = ()
    removed: bool = False

    def yields_to(self, manifest: Manifest, *, has_item: bool) -> bool:
        """Whether a bundle knows better: it has the item, and its catalogue was taken after this change.

        A tombstone yields to no bundle, only to a later record.
        """
        return has_item and not self.removed and self.sequence.ms <= taken_ms(manifest)


def taken_ms(manifest: Manifest) -> int:
    """When the bundle's items were taken from their source, in milliseconds since 1970; 0 where it does not say."""
    try:
        return int(datetime.fromisoformat(manifest.catalogue_at).timestamp() * 1000)
    except ValueError:
        return 0


def written(
    *, title: str = "", text: str | None = None, categories: tuple[str, ...] = (), removed: bool = False
) -> str:
    """What is kept of a record in Redis, but for its id and its sequence number."""
    stored = _Stored(removed=removed, title=title, text=text, categories=categories)
    return stored.model_dump_json(by_alias=True, exclude_defaults=True)


def read_record(item_id: bytes, value: bytes) -> ItemRecord:
    """The record of a field of the hash: `<sequence>|<JSON>`. ValueError for anything else."""
    sequence, bar, content = value.partition(b"|")
    if not bar:
        raise ValueError("holds no sequence number")
    try:
        stored = _Stored.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from None
    if not stored.removed and not stored.title:
        raise ValueError("has no title")
    at = Sequence.read(sequence.decode("ascii", errors="replace"))
    return ItemRecord(item_id.decode(), at, stored.title, stored.text, stored.categories, stored.removed)
