"""The one table of errors, and the documents made of it."""

import re
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from actors.errors import ActorError, OrderNotFound, Overloaded, Stopped, Unavailable, WriteRejected
from actors.order import Reply
from gateway.api.problems import PROBLEMS, Problem, problem_json, problem_of, problem_of_http, problem_response

API = Path(__file__).resolve().parents[2] / "gateway" / "api"


@pytest.mark.parametrize("code", PROBLEMS)
def test_every_kind_makes_a_whole_document(code: str) -> None:
    kind = PROBLEMS[code]
    document = msgspec.json.decode(problem_json(Problem(code), "req_1"))
    assert document == {
        "type": f"urn:holdfast:problem:{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.title,
        "code": code,
        "retryable": kind.retryable,
        "request_id": "req_1",
    }


def test_a_document_names_the_field_and_the_order() -> None:
    problem = Problem("order_conflict", "`amount` differs", param="amount", order_id="0" * 26)
    document = msgspec.json.decode(problem_json(problem, "req_1"))
    assert (document["param"], document["order_id"], document["detail"]) == ("amount", "0" * 26, "`amount` differs")


def test_a_callers_own_words_can_not_break_a_document() -> None:
    problem = Problem("parameter_unknown", '"}\n{"status":200}', param='"<script>\u2028')
    document = msgspec.json.decode(problem_json(problem, "req_1"))
    assert (document["detail"], document["param"]) == (problem.detail, problem.param)


@pytest.mark.parametrize("code", PROBLEMS)
def test_the_answer_says_in_its_headers_what_http_wants_there(code: str) -> None:
    response = problem_response(Problem(code), "req_1")
    assert response.content_type == "application/problem+json"
    assert ("Retry-After" in response.headers) == (response.status == 503)
    assert ("WWW-Authenticate" in response.headers) == (response.status == 401)


def test_what_may_succeed_later_is_said_to_be_retryable_and_nothing_else() -> None:
    retryable = {code for code, kind in PROBLEMS.items() if kind.retryable}
    assert retryable == {
        *("request_timeout", "payment_in_progress", "case_stale", "overloaded", "unavailable", "outcome_unknown")
    }


def test_every_kind_is_used_and_every_use_is_a_kind() -> None:
    """Also those that come about by the name of a reply or of a status."""
    source = "".join(path.read_text() for path in API.glob("*.py") if path.name != "problems.py")
    table, _, rest = (API / "problems.py").read_text().partition("RETRY_AFTER_S")
    assert table.count(": Kind(") == len(PROBLEMS)
    named = set(re.findall(r'"([a-z_]+)"', source + rest)) | {str(reply) for reply in Reply}
    raised = set(re.findall(r'Problem\(\s*"([a-z_]+)"', source + rest))
    assert raised <= PROBLEMS.keys()
    assert PROBLEMS.keys() <= named


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Overloaded("x"), "overloaded"),
        (Unavailable("x"), "unavailable"),
        (Stopped("x"), "unavailable"),
        (WriteRejected("x"), "internal_error"),
        (OrderNotFound("x"), "order_not_found"),
    ],
)
def test_an_error_of_the_core_has_its_kind(error: ActorError, code: str) -> None:
    assert problem_of(error).code == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (web.HTTPNotFound(), "not_found"),
        (web.HTTPRequestEntityTooLarge(65536, 70000), "body_too_large"),
        (web.HTTPBadRequest(), "body_malformed"),
        (web.HTTPServiceUnavailable(), "internal_error"),
    ],
)
def test_an_error_of_the_server_has_its_kind(error: web.HTTPException, code: str) -> None:
    assert problem_of_http(error).code == code


def test_a_wrong_method_is_told_which_are_right() -> None:
    problem = problem_of_http(web.HTTPMethodNotAllowed("PUT", ["GET", "POST"]))
    assert problem_response(problem, "req_1").headers["Allow"] == "GET,POST"
