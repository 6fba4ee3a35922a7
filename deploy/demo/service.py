"""The running service, as its callers see it."""

from __future__ import annotations

import errno
import json
import socket
import time
from typing import Any

import httpx

from deploy.demo.processes import StepFailed
from deploy.demo.supervised import Supervised

KNOWN_FILMS = ("50", "172", "174")  # ids of MovieLens 100K: Star Wars, The Empire Strikes Back, Raiders of the Lost Ark


def refuse_taken_port(port: int) -> None:
    with socket.socket() as probe:
        # As servers do: a port that only waits out its last connections is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                cure = f"end what listens there, or choose another: make demo NAISEKI_PORT={port + 1}"
                raise StepFailed(f"port {port} is taken; {cure}") from None
            raise StepFailed(f"port {port} cannot be used: {error.strerror}") from None


class Service:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._http = httpx.Client(base_url=self.url, timeout=10, trust_env=False)

    def wait_until_ready(self, supervised: Supervised, *, limit: float = 180.0) -> None:
        """StepFailed, with the end of the log, when it dies again and again or is not ready after `limit` seconds."""
        deadline = time.monotonic() + limit
        while not self._answers("/readyz"):
            if supervised.deaths_in_a_row >= 3 or time.monotonic() > deadline:
                raise StepFailed(f"the service did not become ready. {supervised.log} ends with:\n{_tail(supervised)}")
            time.sleep(0.2)

    def recommend(self, **request: Any) -> dict[str, Any]:
        """One answer; a service that is just being started again is waited for."""
        for _ in range(60):
            try:
                answer = self._http.post("/v1/recommend", json=request)
            except httpx.TransportError:
                time.sleep(0.5)
                continue
            if answer.status_code == 200:
                found: dict[str, Any] = answer.json()
                return found
            if answer.status_code != 503:
                raise StepFailed(f"the service refused a request ({answer.status_code}): {answer.text[:500]}")
            time.sleep(0.5)
        raise StepFailed("the service has not answered for half a minute")

    def wait_for_version(self, version: str, *, limit: float = 120.0, **request: Any) -> dict[str, Any] | None:
        """The first answer that `version` gives, or None when it has not answered within `limit` seconds."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            answer = self.recommend(**request)
            if answer["version"] == version:
                return answer
            time.sleep(0.2)
        return None

    def page(self) -> str:
        """The console where this service has one, else the interactive description of its API."""
        return f"{self.url}/" if self._answers("/") else f"{self.url}/docs"

    def curl(self, **request: Any) -> str:
        return f"curl -s {self.url}/v1/recommend -H 'content-type: application/json' -d '{json.dumps(request)}'"

    def _answers(self, path: str) -> bool:
        try:
            return self._http.get(path).status_code == 200
        except httpx.HTTPError:
            return False


def _tail(supervised: Supervised, lines: int = 15) -> str:
    return "\n".join(supervised.log.read_text(errors="replace").splitlines()[-lines:])
