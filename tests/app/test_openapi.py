"""The API describes itself, and holds to the description whatever is sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks

from app.main import create_app
from app.settings import Settings

if TYPE_CHECKING:
    from tests.app.conftest import Running

EXAMPLES = 12
# A generated timeout of a millisecond or two is one that nobody could keep to.
MAY_BE = {(503, "/problems/not-ready"), (504, "/problems/deadline")}
schema = schemathesis.openapi.from_dict(create_app(Settings()).openapi())


@pytest.fixture(scope="module")
def server(shared: Running) -> Running:
    return shared


def test_every_route_is_described() -> None:
    paths: dict[str, Any] = create_app(Settings()).openapi()["paths"]
    described = {(path, method) for path, methods in paths.items() for method in methods}
    assert described == {
        ("/v1/recommend", "post"),
        ("/v1/recommend/batch", "post"),
        ("/v1/events", "post"),
        ("/v1/history", "get"),
        ("/v1/history", "delete"),
        ("/v1/users/{user_id}/history", "get"),
        ("/v1/users/{user_id}/history", "delete"),
        ("/v1/items", "get"),
        ("/v1/items", "put"),
        ("/v1/items", "delete"),
        ("/v1/items/{item_id}", "get"),
        ("/v1/items/{item_id}", "put"),
        ("/v1/items/{item_id}", "delete"),
        ("/v1/items/bulk", "post"),
        ("/v1/search", "post"),
        ("/v1/items/lookup", "post"),
        ("/v1/items/similar", "post"),
        ("/v1/items", "put"),
        ("/v1/items", "delete"),
        ("/v1/items/{item_id}", "put"),
        ("/v1/items/{item_id}", "delete"),
        ("/v1/items/bulk", "post"),
        ("/v1/search", "post"),
        ("/v1/models", "get"),
        ("/v1/models/{version}/load", "post"),
        ("/v1/models/{version}/unload", "post"),
        ("/v1/labels/{label}", "put"),
        ("/v1/labels/{label}", "delete"),
        ("/v1/audit", "get"),
        ("/v1/rollback", "post"),
        ("/v1/compare", "get"),
        ("/livez", "get"),
        ("/readyz", "get"),
        ("/metrics", "get"),
    }


def test_every_reference_leads_somewhere() -> None:
    description = create_app(Settings()).openapi()

    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    known = {f"#/components/schemas/{name}" for name in description["components"]["schemas"]}
    assert set(references(description)) <= known


@schema.exclude(path="/v1/rollback").exclude(path="/v1/labels/{label}", method="DELETE").parametrize()  # type: ignore[untyped-decorator]
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
def test_whatever_is_sent(case: schemathesis.Case, server: Running) -> None:
    """No label moves here: a generated version is never one of the store."""
    response = case.call(base_url=server.url, timeout=30)
    if response.status_code >= 500:
        assert (response.status_code, response.json()["type"]) in MAY_BE
    case.validate_response(
        response,
        checks=[
            checks.status_code_conformance,
            checks.content_type_conformance,
            checks.response_schema_conformance,
        ],
    )
