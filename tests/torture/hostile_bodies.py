"""What a hostile or broken client sends: bodies for every route that takes one, and bytes that are hardly HTTP."""

from __future__ import annotations

import gzip
import json

_DEEP = 100_000
IDS = {
    "empty": "",
    "too long": "x" * 257,
    "too long in bytes": "é" * 200,
    "a null byte": "a\x00b",
    "a line break": "a\r\nset-cookie: x",
    "an escape": "\x1b[2J",
    "c1 control": "a\x9f",
    "markup": "<script>alert(1)</script>",
    "a path": "../../../../etc/passwd",
    "a key of Redis": "naiseki:{u}:history",
    "braces": "}{%7D",
    "lua": '"]) redis.call("FLUSHALL") --',
    "sql": "' or 1=1; drop table items; --",
    "a template": "{{7*7}}${jndi:ldap://x}",
    "right to left": "\u202egnp.exe",
    "zero width": "\u200b",
    "no character": "\ufffe",
    "astral": "\U0010ffff" * 64,
    "spaces": " " * 256,
}
VALUES: dict[str, object] = {
    "null": None,
    "true": True,
    "a float": 1.5,
    "minus one": -1,
    "two to the 63": 2**63,
    "two to the 64": 2**64,
    "a long number": 10**400,
    "a list": [],
    "lists in a list": [[[]]],
    "an object": {},
    "an object with a dunder": {"__class__": "os.system"},
    "a number in a list": [1],
    "null in a list": [None],
    "many": ["x"] * 20_000,
    "one id often": ["alpha-1"] * 9_999,
}
RAW_BODIES = {
    "nothing": b"",
    "a space": b" ",
    "half": b'{"history": ["a"',
    "a trailing comma": b'{"k": 1,}',
    "single quotes": b"{'k': 1}",
    "a comment": b'{"k": 1} // c',
    "two values": b"{} {}",
    "no utf-8": b'{"user_id": "\xff\xfe"}',
    "overlong utf-8": b'{"user_id": "\xc0\xae"}',
    "a lone surrogate": rb'{"user_id": "\ud800"}',
    "a lone low surrogate": rb'{"history": ["\udc00"]}',
    "utf-16": '{"k": 1}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"k": 1}',
    "deep lists": b"[" * _DEEP,
    "deep objects": b'{"a":' * _DEEP,
    "a deep value": b'{"history": ' + b"[" * 500 + b"]" * 500 + b"}",
    "nan": b'{"k": NaN}',
    "infinity": b'{"k": -Infinity}',
    "too large a float": b'{"k": 1e999}',
    "a giant integer": b'{"k": ' + b"9" * 6_000 + b"}",
    "a key twice": b'{"k": 1, "k": 2}',
    "many keys": json.dumps({f"k{n}": n for n in range(20_000)}).encode(),
    "a long key": json.dumps({"x" * 500_000: 1}).encode(),
    "a list instead": b"[]",
    "a string instead": b'"history"',
    "a number instead": b"1e999",
    "null instead": b"null",
    "gzip": gzip.compress(b'{"k": 1}'),
    "a pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
    "xml": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    "a form": b"user_id=u&k=10",
    "too large": b" " * (2**20 + 1),
}
RAW_REQUESTS = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no request line": b"\r\n\r\n\r\n\r\n",
    "an unknown method": b"BREW /v1/recommend HTTP/1.1\r\nhost: x\r\n\r\n",
    "HTTP 9": b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
    "a negative length": b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    "no number for a length": b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 0x10\r\n\r\n",
    "two lengths": b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "a length and chunks": b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bad chunk": b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a giant header": b"GET /livez HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 200_000 + b"\r\n\r\n",
    "a path with a null": b"GET /v1/items/%00 HTTP/1.1\r\nhost: x\r\n\r\n",
    "a path out": b"GET /../../../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n",
    "a path out, encoded": b"GET /v1/models/..%2f..%2fetc/map HTTP/1.1\r\nhost: x\r\n\r\n",
    "a path that is no utf-8": b"GET /v1/items/%ff%fe HTTP/1.1\r\nhost: x\r\n\r\n",
    "a query that is no utf-8": b"GET /v1/items?q=%ff&limit=1 HTTP/1.1\r\nhost: x\r\n\r\n",
    "a whole address": b"GET http://169.254.169.254/latest HTTP/1.1\r\nhost: x\r\n\r\n",
    "an upgrade": b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
    "a websocket": b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZQ==\r\nsec-websocket-version: 13\r\n\r\n",
    "a key that is no text": b"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer \xff\xfe\r\n\r\n",
}


def bodies() -> dict[str, bytes]:
    """Each by name; what is not JSON at all, and a hostile value in the fields that hold ids and numbers."""
    found = dict(RAW_BODIES)
    for name, value in IDS.items():
        for field, body in (
            ("user", {"user_id": value}),
            ("history", {"history": [value]}),
            ("event", {"events": [{"user_id": value, "item_id": value}]}),
            ("version", {"version": value}),
        ):
            found[f"{field}: {name}"] = json.dumps(body).encode()
    for name, any_value in VALUES.items():
        for field in ("k", "history", "events", "requests", "version", "timeout_ms", "ids", "item_id"):
            found[f"{field}: {name}"] = json.dumps({field: any_value}).encode()
    return found
