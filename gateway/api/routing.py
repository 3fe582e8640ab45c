"""From method and path to handler: a dictionary for fixed paths, one pattern each for the others.

Ours, because aiohttp's application and its middlewares cost a request half as much again as its server does.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias

import msgspec
from aiohttp import web


class Call(web.BaseRequest):
    """A request, with what its path names."""

    match_info: Mapping[str, str] = {}


Handler: TypeAlias = Callable[[Call], Awaitable[web.Response]]


class Route(msgspec.Struct, frozen=True):
    """Where a handler stands; `{name}` in the path takes one segment."""

    method: str
    path: str
    handler: Handler


class Router:
    """Finds the handler of a request."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[str, dict[str, Handler]] = {}
        self._patterns: dict[re.Pattern[str], dict[str, Handler]] = {}
        for route in routes:
            self._place(route.path)[route.method] = route.handler

    async def __call__(self, call: Call) -> web.Response:
        """Run the handler.

        Raises:
            web.HTTPNotFound: nothing stands there.
            web.HTTPMethodNotAllowed: something does, for other methods.
        """
        path = call.rel_url.raw_path
        handlers = self._fixed.get(path)
        if handlers is None:
            handlers, call.match_info = self._match(path)
        handler = handlers.get(call.method)
        if handler is None:
            raise web.HTTPMethodNotAllowed(call.method, sorted(handlers))
        return await handler(call)

    def _place(self, path: str) -> dict[str, Handler]:
        if "{" not in path:
            return self._fixed.setdefault(path, {})
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path))
        return self._patterns.setdefault(re.compile(pattern), {})

    def _match(self, path: str) -> tuple[dict[str, Handler], dict[str, Any]]:
        for pattern, handlers in self._patterns.items():
            if (found := pattern.fullmatch(path)) is not None:
                return handlers, found.groupdict()
        raise web.HTTPNotFound
