"""Errors as RFC 9457 problem documents, from one table.

Problem     raised by handlers; `code` says which row of PROBLEMS it is
"""

from collections.abc import Mapping

import msgspec
from aiohttp import web

from actors.errors import ActorError, Overloaded, Stopped, Unavailable, WriteRejected


class Kind(msgspec.Struct, frozen=True):
    """A kind of problem: its HTTP status, its title, and whether the same request may succeed later."""

    status: int
    title: str
    retryable: bool = False


PROBLEMS: Mapping[str, Kind] = {
    "request_malformed": Kind(400, "The request is not HTTP as it should be"),
    "body_malformed": Kind(400, "The body is not the JSON object it should be"),
    "parameter_invalid": Kind(400, "A parameter has a value it can not have"),
    "parameter_missing": Kind(400, "A parameter is missing"),
    "parameter_unknown": Kind(400, "There is no such parameter"),
    "parameter_duplicate": Kind(400, "A parameter is there twice"),
    "channel_not_installed": Kind(400, "This channel is not installed here"),
    "method_not_offered": Kind(400, "The channel does not offer this method here"),
    "protocol_unsupported": Kind(400, "The request is not HTTP/1.0 or HTTP/1.1"),
    "unauthorized": Kind(401, "The key is missing or unknown"),
    "order_not_found": Kind(404, "There is no such order"),
    "refund_not_found": Kind(404, "There is no such refund"),
    "case_not_found": Kind(404, "There is no such case"),
    "not_found": Kind(404, "There is nothing here"),
    "method_not_allowed": Kind(405, "This can not be done with that HTTP method"),
    "request_timeout": Kind(408, "The body did not arrive in time", retryable=True),
    "order_conflict": Kind(409, "Another order has this number"),
    "duplicate_submission": Kind(409, "The same was submitted a moment ago under another number"),
    "order_paid": Kind(409, "The order is paid"),
    "order_closed": Kind(409, "The order is closed"),
    "order_closing": Kind(409, "The order is being closed"),
    "order_expired": Kind(409, "The order has expired"),
    "order_in_exception": Kind(409, "People are looking at this order"),
    "payment_in_progress": Kind(409, "Another payment of this order is in progress", retryable=True),
    "qr_unavailable": Kind(409, "There is no QR code to show"),
    "attempts_exhausted": Kind(409, "The order was attempted too often"),
    "order_not_paid": Kind(409, "Only a paid order can be refunded"),
    "refund_conflict": Kind(409, "Another refund has this number"),
    "refund_exceeds_paid": Kind(409, "More would go back than was paid"),
    "refunds_exhausted": Kind(409, "The order was refunded too often"),
    "case_resolved": Kind(409, "The case is resolved already"),
    "case_action_impossible": Kind(409, "This can not be done about this case"),
    "case_stale": Kind(409, "The order moves while you decide; nothing was done", retryable=True),
    "body_too_large": Kind(413, "The body is too large"),
    "content_type_unsupported": Kind(415, "The body must be application/json, not encoded"),
    "payment_refused": Kind(422, "The channel refused the payment"),
    "refund_refused": Kind(422, "The channel refused the refund"),
    "internal_error": Kind(500, "Something here is broken"),
    "overloaded": Kind(503, "Too much is waiting; nothing was done", retryable=True),
    "unavailable": Kind(503, "The database can not take it now; nothing was done", retryable=True),
    "outcome_unknown": Kind(
        503, "It is not known yet whether it was done; ask again with the same number", retryable=True
    ),
}

RETRY_AFTER_S = 1


class Problem(Exception):
    """A request that can not be done; `param` names the field, `detail` says what is wrong with it.

    `allow` lists the methods that the path does take.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        param: str | None = None,
        order_id: str | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.param = param
        self.order_id = order_id
        self.allow = allow


class _Document(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool | msgspec.UnsetType = msgspec.UNSET
    request_id: str = ""
    param: str | None = None
    order_id: str | None = None


_encode = msgspec.json.Encoder().encode


def problem_json(problem: Problem, request_id: str) -> bytes:
    """The document."""
    kind = PROBLEMS[problem.code]
    return _encode(
        _Document(
            type=f"urn:holdfast:problem:{problem.code}",
            title=kind.title,
            status=kind.status,
            detail=problem.detail or kind.title,
            code=problem.code,
            retryable=kind.retryable,
            request_id=request_id,
            param=problem.param,
            order_id=problem.order_id,
        )
    )


def problem_response(problem: Problem, request_id: str) -> web.Response:
    """The answer to the request."""
    kind = PROBLEMS[problem.code]
    headers = {"Content-Type": "application/problem+json"}
    if kind.status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if kind.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if problem.allow is not None:
        headers["Allow"] = problem.allow
    return web.Response(status=kind.status, body=problem_json(problem, request_id), headers=headers)


def problem_of(error: ActorError) -> Problem:
    """What a request hears of an error of the core."""
    if isinstance(error, Overloaded):
        return Problem("overloaded", str(error))
    if isinstance(error, Unavailable | Stopped):
        return Problem("unavailable")
    if isinstance(error, WriteRejected):
        return Problem("internal_error", "the database refused what this request would have written")
    return Problem("order_not_found")


_HTTP: Mapping[int, str] = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def problem_of_http(error: web.HTTPException) -> Problem:
    """What a request hears of an error of aiohttp's."""
    code = _HTTP.get(error.status)
    if code is not None:
        return Problem(code, allow=error.headers.get("Allow"))
    return Problem("body_malformed" if error.status < 500 else "internal_error", error.reason)
