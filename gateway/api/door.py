"""The door every request comes through: its id, its protocol, and what it hears when something is wrong."""

import itertools
import re
import secrets

import structlog
from aiohttp import HttpVersion10, HttpVersion11, web

from actors.errors import ActorError
from gateway.api.problems import Problem, problem_of, problem_of_http, problem_response
from gateway.api.routing import Call, Handler
from gateway.probe import probe

_REQUEST_ID = re.compile(r"[0-9A-Za-z_.:-]{1,64}\Z")
_PREFIX = secrets.token_hex(4)
_count = itertools.count(1)

log = structlog.get_logger(__name__)


async def door(request: Call, handler: Handler) -> web.Response:
    """Run a handler; every way it can fail ends in a problem document."""
    request_id = request_id_of(request)
    try:
        if request.version not in (HttpVersion11, HttpVersion10):
            raise Problem("protocol_unsupported")
        response = await handler(request)
    except Problem as problem:
        response = problem_response(problem, request_id)
    except ActorError as error:
        response = problem_response(problem_of(error), request_id)
    except web.HTTPException as error:
        response = problem_response(problem_of_http(error), request_id)
    except Exception as error:
        response = problem_response(_of_unexpected(request, request_id, error), request_id)
    response.headers["X-Request-Id"] = request_id
    probe("before_reply")
    return response


def request_id_of(request: web.BaseRequest) -> str:
    """The caller's own id for the request if it is well-formed, else one of ours."""
    given = request.headers.get("X-Request-Id")
    return given if given is not None and _REQUEST_ID.match(given) else f"req_{_PREFIX}{next(_count):08x}"


def _of_unexpected(request: Call, request_id: str, error: Exception) -> Problem:
    """The database being away is a state of the world, told in a line; anything else is a mistake of ours."""
    if not (isinstance(error, OSError | TimeoutError) or type(error).__module__.startswith("asyncpg")):
        log.error("request_failed", request_id=request_id, path=request.path, exc_info=error)
        return Problem("internal_error")
    log.warning(
        "database_away", request_id=request_id, path=request.path, error=f"{type(error).__name__}: {error}"[:300]
    )
    return Problem("unavailable" if request.method == "GET" else "outcome_unknown")
