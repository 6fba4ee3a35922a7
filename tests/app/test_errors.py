from __future__ import annotations

import json

import pytest
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.errors import STATUS, ClientGone, Problem, overloaded, problem_of
from app.schemas import RecommendRequest
from app.user_history import HistoriesUnavailable
from model_store.errors import BundleRefused, LabelConflict, ReadOnlyStore, UnknownVersion


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (Problem("too-large", "much"), "too-large"),
        (UnknownVersion("no v"), "unknown-version"),
        (LabelConflict("lost"), "not-possible"),
        (BundleRefused("damaged"), "not-possible"),
        (ReadOnlyStore("ro"), "not-possible"),
        (HistoriesUnavailable("gone"), "not-ready"),
        (HTTPException(404), "unknown-route"),
        (HTTPException(405), "method-not-allowed"),
        (ClientGone(), "client-gone"),
        (ClientDisconnect(), "client-gone"),
        (ZeroDivisionError("secret"), "internal"),
    ],
)
def test_the_nearest_class_decides(error: Exception, name: str) -> None:
    problem = problem_of(error)
    assert problem.name == name
    assert problem.status == STATUS[name]
    assert "secret" not in problem.detail


def problem_from(body: str) -> Problem:
    with pytest.raises(ValidationError) as refused:
        RecommendRequest.model_validate_json(body)
    return problem_of(refused.value)


def test_pointers_lead_to_the_field() -> None:
    problem = problem_from('{"k": "10", "history": ["a", 7], "a/b~c": 1}')
    assert problem.status == 422
    assert [one["pointer"] for one in problem.members["errors"]] == ["/history/1", "/k", "/a~1b~0c"]


def test_what_is_no_json_is_malformed() -> None:
    assert problem_from('{"k": ').name == "malformed"


def test_a_long_list_of_reasons_is_cut() -> None:
    assert len(problem_from(json.dumps({"history": [1] * 500})).members["errors"]) == 20


def test_the_body_is_rfc_9457() -> None:
    response = Problem("unknown-item", "no such", members={"hint": 1}).response("r-1")
    assert response.media_type == "application/problem+json"
    assert json.loads(bytes(response.body)) == {
        "type": "/problems/unknown-item",
        "title": "unknown item",
        "status": 404,
        "detail": "no such",
        "hint": 1,
        "request_id": "r-1",
    }


@pytest.mark.parametrize(("wait", "header"), [(0.0, "1"), (1.2, "2"), (1e9, "60")])
def test_overloaded_says_when(wait: float, header: str) -> None:
    assert overloaded(wait).headers["Retry-After"] == header
