"""What this installation can do: its channels, how a payer can meet them, and what an app must say with it."""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from channels.contract import Channel, Method, Param
from channels.params import mistake_in
from gateway.api.auth import Authenticator
from gateway.api.bodies import Pay
from gateway.api.problems import Problem
from gateway.api.routing import Call, Route
from gateway.effect_runner import InstalledChannel


class ChannelsApi:
    """`GET /v1/channels`. Channels are installed at start, so the answer is made once."""

    def __init__(self, authenticator: Authenticator, channels: Mapping[str, InstalledChannel]) -> None:
        self._authenticator = authenticator
        shown = [_channel(channels[name].channel) for name in sorted(channels)]
        self._body = msgspec.json.encode({"channels": shown})

    def routes(self) -> list[Route]:
        """Where the handler stands."""
        return [Route("GET", "/v1/channels", self.channels)]

    async def channels(self, request: Call) -> web.Response:
        """All that can be asked of `pay`."""
        await self._authenticator.app_of(request)
        return web.Response(body=self._body, content_type="application/json")


def chosen(channels: Mapping[str, InstalledChannel], body: Pay) -> Channel:
    """The channel a pay asks for, if it offers that method with those params.

    Raises:
        Problem: 400, naming the field and what is possible.
    """
    installed = channels.get(body.channel)
    if installed is None:
        choice = ", ".join(sorted(channels)) or "none"
        raise Problem("channel_not_installed", f"installed channels: {choice}", param="channel")
    method = installed.channel.methods.get(body.method)
    if method is None:
        choice = ", ".join(sorted(installed.channel.methods))
        raise Problem("method_not_offered", f"{body.channel} offers: {choice}", param="method")
    params = body.params or {}
    mistake = mistake_in(params, method)
    if mistake:
        field, _, detail = mistake.partition(": ")
        raise Problem(_code(field.removeprefix("params."), params, method), detail, param=field)
    return installed.channel


def _code(name: str, params: Mapping[str, Any], method: Method) -> str:
    if name not in {param.name for param in method.params}:
        return "parameter_unknown"
    return "parameter_invalid" if name in params else "parameter_missing"


def _channel(channel: Channel) -> dict[str, Any]:
    return {"channel": channel.name, "methods": [_method(method) for _, method in sorted(channel.methods.items())]}


def _method(method: Method) -> dict[str, Any]:
    return {
        "method": method.name,
        "about": method.about,
        "credential": method.credential,
        "params": [_param(param) for param in method.params],
    }


def _param(param: Param) -> dict[str, Any]:
    return {
        "name": param.name,
        "about": param.about,
        "required": param.required,
        "choices": param.choices,
        "pattern": param.pattern or None,
        "chars_max": param.chars_max,
    }
