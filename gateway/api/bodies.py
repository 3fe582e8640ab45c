"""Request bodies: read within bounds, decoded into typed structs, every mistake named by its field.

msgspec refuses unknown fields, floats, booleans, negative and huge numbers and broken UTF-8. What JSON allows and we do
not is looked for only where it can hide: control characters and lone surrogates need a backslash to be written, a field
that stands there twice needs its name to be there twice.
"""

import asyncio
import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Annotated, Any, Generic, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from msgspec import Meta

from gateway.api.problems import Problem

AMOUNT_MAX = 10**12
BODY_WAIT_S = 5.0  # a body that drips is given up

T = TypeVar("T", bound=msgspec.Struct)

OutOrderNo = Annotated[str, Meta(pattern=r"^[0-9A-Za-z_.:|*@-]{1,64}\Z")]
Amount = Annotated[int, Meta(ge=1, le=AMOUNT_MAX)]
Url = Annotated[str, Meta(min_length=8, max_length=512)]
Label = Annotated[str, Meta(min_length=1, max_length=128)]
Word = Annotated[str, Meta(pattern=r"^[a-z0-9_]{1,32}\Z")]


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that is bought. `amount` is what one costs, in minor units."""

    name: Label
    quantity: Annotated[int, Meta(ge=1, le=10**6)] = 1
    amount: Annotated[int, Meta(ge=0, le=AMOUNT_MAX)] | None = None
    sku: Label | None = None


class CreateOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/orders`."""

    out_order_no: OutOrderNo
    amount: Amount
    currency: Literal["CNY"]
    subject: Annotated[str, Meta(min_length=1, max_length=127)]
    buyer: Label | None = None
    items: Annotated[list[Item], Meta(max_length=100)] | None = None
    expires_in_s: Annotated[int, Meta(ge=5, le=604_800)] | None = None
    webhook_url: Url | None = None
    return_url: Url | None = None
    metadata: Annotated[dict[Label, Annotated[str, Meta(max_length=512)]], Meta(max_length=50)] | None = None
    late_payment: Literal["accept", "hold"] = "accept"


class Pay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/orders/{order_id}/pay`."""

    channel: Word
    method: Word
    params: Annotated[dict[Label, Annotated[str, Meta(max_length=512)]], Meta(max_length=20)] | None = None


class Empty(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a call that takes none: nothing, or an empty object."""


class Reader(Generic[T]):
    """Decodes bodies of one type."""

    def __init__(self, body: type[T]) -> None:
        self._decode = msgspec.json.Decoder(body).decode
        self._names = [f'"{name}"'.encode() for name in body.__struct_fields__]

    def __call__(self, raw: bytes) -> T:
        """The body as a value.

        Raises:
            Problem: 400, naming the field.
        """
        try:
            value = self._decode(raw)
        except msgspec.ValidationError as error:
            raise _invalid(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if b"\\u" in raw:
                _refuse_hidden(raw)
            raise Problem("body_malformed", str(error)) from None
        if b"\\" in raw or raw.count(b"{") > 1 or any(raw.count(name) > 1 for name in self._names):
            _refuse_hidden(raw)
        return value


async def read_bytes(request: web.Request) -> bytes:
    """The raw body, in time and within the size the application allows."""
    if request.content.is_eof():
        return await request.read()
    try:
        async with asyncio.timeout(BODY_WAIT_S):
            return await request.read()
    except TimeoutError:
        raise Problem("request_timeout") from None


async def read(request: web.Request, reader: Reader[T]) -> T:
    """The decoded JSON body."""
    if request.content_type != "application/json" or "Content-Encoding" in request.headers:
        raise Problem("content_type_unsupported", "send Content-Type: application/json", param="Content-Type")
    return reader(await read_bytes(request))


def check_url(name: str, url: str | None) -> None:
    """Refuse what is not an absolute http(s) address without a user in it."""
    if url is None:
        return
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        port_is_fine = False
    fine = port_is_fine and parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
    if not fine or any(character.isspace() for character in url):
        raise Problem("parameter_invalid", "expected an absolute http:// or https:// address", param=name)


_PATH = re.compile(r" - at `\$\.?(.*)`$")
_FIELD = re.compile(r"(?:unknown|required) field `(.*?)`")


def _invalid(message: str) -> Problem:
    path = _PATH.search(message)
    field = _FIELD.search(message)
    inside = path[1] if path else ""
    param = ".".join(part for part in (inside, field[1] if field else "") if part) or None
    if field is None:
        return Problem("parameter_invalid" if param else "body_malformed", message, param=param)
    return Problem("parameter_unknown" if "unknown field" in message else "parameter_missing", message, param=param)


def _refuse_hidden(raw: bytes) -> None:
    """The slow way: look at every name and every text."""
    try:
        value = json.loads(raw, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Problem("body_malformed", str(error)) from None
    for path, text in _texts(value, ""):
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
            detail = "control characters and lone surrogates are not allowed"
            raise Problem("parameter_invalid", detail, param=path)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Problem("parameter_duplicate", f"field `{twice}` is there twice", param=twice)
    return value


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield path or name.encode(errors="replace").decode(), name
            yield from _texts(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{path}[{index}]")
