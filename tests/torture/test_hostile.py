"""Whatever is sent, by whomever: no 5xx but the documented problems, and no stack trace, in answers and in the log."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import schemathesis
from hypothesis import HealthCheck, given, settings

from tests.torture.bundles import TwoVersions
from tests.torture.figures import Figures
from tests.torture.hostile_bodies import RAW_REQUESTS, bodies
from tests.torture.service_process import ServiceProcess

CLIENT, ADMIN = "client-key", "admin-key"
KEYS: tuple[dict[str, str], ...] = ({}, *({"authorization": f"Bearer {key}"} for key in (CLIENT, ADMIN)))
DOCUMENTED = {503: "/problems/not-ready", 504: "/problems/deadline"}
EXAMPLES, SHORT_EXAMPLES = 150, 3
Versions = Callable[[str], TwoVersions]


def undocumented(status: int, kind: str, text: str) -> str | None:
    """What is wrong with an answer that nobody should get. kind: its content type."""
    if "Traceback" in text or 'File "' in text:
        return f"a stack trace: {text[:500]}"
    if status < 500:
        return None
    problem = json.loads(text)["type"] if kind == "application/problem+json" else None
    return None if problem is not None and problem == DOCUMENTED.get(status) else f"{status} {text[:500]}"


@contextmanager
def guarded(versions: TwoVersions, data: Path, *, full: bool) -> Iterator[ServiceProcess]:
    """A service with keys."""
    with ServiceProcess(
        versions.store.root, data, pinned=full, prepared=(versions.first,), api_keys=CLIENT, admin_keys=ADMIN
    ) as service:
        yield service
        assert service.ready().recommend().status_code == 401
        assert service.http.post("/v1/recommend", json={}, headers=KEYS[-1]).status_code == 200


def test_described_requests(two_versions: Versions, tmp_path: Path, full: bool, figures: Figures) -> None:
    wrong: list[str] = []
    statuses: Counter[int] = Counter()
    with guarded(two_versions("sequence"), tmp_path / "data", full=full) as service:
        schema = schemathesis.openapi.from_dict(service.http.get("/openapi.json").json())
        operations = [found.ok() for found in schema.get_all_operations()]
        for operation in operations:

            @given(case=operation.as_strategy())
            @settings(
                max_examples=EXAMPLES if full else SHORT_EXAMPLES, deadline=None, derandomize=True, database=None,
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            def ask(case: schemathesis.Case) -> None:
                for headers in KEYS:
                    answer = case.call(base_url=service.url, headers=headers, timeout=60)
                    statuses[answer.status_code] += 1
                    kind = (answer.headers.get("content-type") or [""])[0]
                    if reason := undocumented(answer.status_code, kind, answer.text):
                        wrong.append(f"{case.method} {case.path}: {reason}")

            ask()
        wrong += traces(service)
    assert len(operations) > 15
    assert {401, 403, 422} <= set(statuses), "keys and bodies were not tried"
    figures.tell("schemathesis with and without keys: undocumented 5xx, stack traces", len(wrong))
    assert not wrong, wrong[:5]


def traces(service: ServiceProcess) -> list[str]:
    return [line[:2000] for line in service.log_text().splitlines() if "Traceback" in line]


def test_hostile_bodies(two_versions: Versions, tmp_path: Path, full: bool, figures: Figures) -> None:
    """Every body to every route that takes one; in short each body to one route, in turn."""
    wrong: list[str] = []
    hostile = bodies()
    with guarded(two_versions("sequence"), tmp_path / "data", full=full) as service:
        routes = [(path, method) for path, method in sorted(service.routes()) if method in ("post", "put")]
        assert len(routes) >= 6
        for n, (name, body) in enumerate(hostile.items()):
            for path, method in routes if full else [routes[n % len(routes)]]:
                headers = KEYS[-1] | {"content-type": "application/json"}
                answer = service.http.request(method, filled(path), content=body, headers=headers)
                if reason := undocumented(answer.status_code, answer.headers.get("content-type", ""), answer.text):
                    wrong.append(f"{name} to {method} {path}: {reason}")
        for name, request in RAW_REQUESTS.items():
            if reason := undocumented(*answer_to(service.port, request)):
                wrong.append(f"{name}: {reason}")
        wrong += traces(service)
    figures.tell("hostile bodies: sent", len(hostile) + len(RAW_REQUESTS))
    figures.tell("hostile bodies: undocumented 5xx, stack traces", len(wrong))
    assert not wrong, wrong[:5]


def filled(path: str) -> str:
    for name, value in {"item_id": "alpha-1", "user_id": "u", "version": "none", "label": "live"}.items():
        path = path.replace(f"{{{name}}}", value)
    return path


def answer_to(port: int, request: bytes) -> tuple[int, str, str]:
    """Status, content type and body, until the server closes or says nothing for a moment; no byte is a refusal."""
    told = b""
    with socket.create_connection(("127.0.0.1", port), timeout=0.3) as connection:
        try:
            connection.sendall(request)
            while part := connection.recv(65536):
                told += part
        except OSError:
            pass
    head, _, body = told.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    status = int(lines[0].split(b" ")[1]) if told.startswith(b"HTTP/") else 400
    kind = next((line.partition(b": ")[2] for line in lines if line.lower().startswith(b"content-type")), b"")
    return status, kind.decode(), body.decode(errors="replace")
