"""Request ids that say which answer they belong to: an event that carries one is attributed without a store.

l-0123456789ab-6af2c0de5b1e9d0c4a77
|  |            |       random: 12 hexadecimal digits
|  |            seconds since 1970 when it was answered: 8 hexadecimal digits
|  the version's hash: what follows the last dash of its name
the label that it was answered under: l live, p previous, c canary, s shadow, o loaded by an operator
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

LETTERS: Mapping[str, str] = {"live": "l", "previous": "p", "canary": "c", "shadow": "s", "loaded": "o"}
LABELS: Mapping[str, str] = {letter: label for label, letter in LETTERS.items()}
_FORM = re.compile(rf"([{''.join(LABELS)}])-([a-z0-9._]{{0,80}})-([0-9a-f]{{8}})[0-9a-f]{{12}}")


@dataclass(frozen=True, slots=True)
class Answered:
    """What a request id says. at_s: seconds since 1970, by the clock of the process that answered."""

    letter: str
    version_hash: str
    at_s: int

    @property
    def label(self) -> str:
        return LABELS[self.letter]


def request_id(version: str, label: str) -> str:
    """A new one. Nobody signs it: it tells where an answer came from, and proves nothing."""
    return f"{LETTERS[label]}-{version_hash(version)}-{int(time.time()):08x}{secrets.token_hex(6)}"


def parse_request_id(text: str) -> Answered | None:
    """None for what this service does not hand out."""
    found = _FORM.fullmatch(text)
    return None if found is None else Answered(found[1], found[2], int(found[3], 16))


def version_hash(version: str) -> str:
    return version.rpartition("-")[2]
