"""Known keys, as SHA-256 digests: compared in constant time, and not kept as they were given.

A key may be given as its digest, `sha256:` and 64 hexadecimal digits, so that who reads the settings cannot use it:

    printf %s "$KEY" | sha256sum
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable

HASHED = "sha256:"
_FORM = re.compile(rf"{HASHED}[0-9a-fA-F]{{64}}")


class KeyRing:
    """Keys are meant to be long and random: a digest of a short or guessable one can be tried out."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(_digest_of(key) for key in keys)

    def knows(self, sent: str) -> bool:
        """Every key is compared, so that the time tells nothing of which one was near, nor how long it is."""
        digest = hashlib.sha256(sent.encode()).digest()
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


def refuse_half_hashes(keys: tuple[str, ...]) -> tuple[str, ...]:
    """ValueError for a `sha256:` that is not one: taken as a key it would lock everybody out, or let the wrong in."""
    if any(key.lower().startswith(HASHED) and not _FORM.fullmatch(key) for key in keys):
        raise ValueError(f"a key that begins with {HASHED} needs 64 hexadecimal digits after it")
    return keys


def _digest_of(key: str) -> bytes:
    if key.startswith(HASHED):
        return bytes.fromhex(key.removeprefix(HASHED))
    return hashlib.sha256(key.encode()).digest()
