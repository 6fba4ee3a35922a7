from __future__ import annotations

import hashlib
import hmac

import pytest

from app.key_ring import KeyRing, refuse_half_hashes

HASHED = "sha256:" + hashlib.sha256(b"secret").hexdigest()


@pytest.mark.parametrize("given", ["secret", HASHED, "sha256:" + HASHED.removeprefix("sha256:").upper()])
def test_a_key_is_known_however_it_was_given(given: str) -> None:
    ring = KeyRing(["other", given])
    assert ring.knows("secret")
    assert ring.knows("other")
    assert not ring.knows("secret ")
    assert not ring.knows("")


def test_the_digest_itself_opens_nothing() -> None:
    ring = KeyRing([HASHED])
    assert not ring.knows(HASHED)
    assert not ring.knows(HASHED.removeprefix("sha256:"))


def test_no_keys_know_nobody() -> None:
    assert not KeyRing([]).knows("")


def test_every_key_is_compared_and_all_are_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []
    original = hmac.compare_digest

    def compare(sent: bytes, known: bytes) -> bool:
        compared.append((len(sent), len(known)))
        return original(sent, known)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert KeyRing(["a", "much longer than the other", HASHED]).knows("a")
    assert compared == [(32, 32)] * 3


@pytest.mark.parametrize(
    "key", ["sha256:", "sha256:abc", HASHED[:-1], HASHED + "0", "SHA256:" + "0" * 64, HASHED[:-1] + "g"]
)
def test_half_a_hash_is_no_key(key: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits") as refused:
        refuse_half_hashes(("good", key))
    assert key.removeprefix("sha256:") == "" or key not in str(refused.value)
