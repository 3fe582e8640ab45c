"""The HTTP server: what it refuses before any handler runs is a problem document as well.

It unpacks nothing (a small gzip body can be a large one), and does not log each malformed request with a traceback:
strangers could fill the log with them.
"""

import asyncio
from functools import partial
from typing import Any

import structlog
from aiohttp import web

from gateway.api.door import door, request_id_of
from gateway.api.problems import Problem, problem_response
from gateway.api.routing import Call, Handler

KEEPALIVE_S = 75.0
LINGER_S = 2.0  # how long the rest of a refused body is read, so that its sender hears the refusal

log = structlog.get_logger(__name__)


class Edge(web.Server):
    """Serves what stands behind a router; every request comes through the door."""

    def __init__(self, router: Handler, *, body_bytes_max: int) -> None:
        loop = asyncio.get_running_loop()

        def call(message: Any, payload: Any, connection: Any, writer: Any, task: Any) -> Call:
            return Call(message, payload, connection, writer, task, loop, client_max_size=body_bytes_max)

        super().__init__(
            partial(door, handler=router),
            request_factory=call,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGER_S,
        )

    def __call__(self) -> web.RequestHandler:
        """A new connection."""
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """400 when it was not HTTP, 500 for a mistake of ours; the connection ends, for nobody knows what follows."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of an answer was sent already")
        request_id = request_id_of(request)
        if status >= 500:
            log.error("connection_failed", request_id=request_id, detail=message, exc_info=exc)
        response = problem_response(Problem("request_malformed" if status < 500 else "internal_error"), request_id)
        response.headers["X-Request-Id"] = request_id
        response.force_close()
        return response
