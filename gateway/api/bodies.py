"""Request bodies: read within bounds, decoded into typed structs, every mistake named by its field.

msgspec refuses unknown fields, floats, booleans, negative and huge numbers and broken UTF-8. What JSON allows and we do
not is looked for only where it can hide: most control characters and lone surrogates need a backslash to be written, a
field that stands there twice needs its name to be there twice.
"""

import asyncio
import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from gateway.addresses import fault_of
from gateway.api.problems import Problem
from gateway.api.routing import Call

AMOUNT_MAX = 10**12
BODY_WAIT_S = 5.0  # a body that drips is given up

_C1 = re.compile(rb"\xc2[\x80-\x9f]")  # these control characters and U+007F may stand in JSON as they are

T = TypeVar("T", bound=msgspec.Struct)

OUT_ORDER_NO = re.compile(r"^[0-9A-Za-z_.:|*@-]{1,64}\Z")
OutOrderNo = Annotated[str, Meta(pattern=OUT_ORDER_NO.pattern)]
Amount = Annotated[int, Meta(ge=1, le=AMOUNT_MAX)]
Url = Annotated[str, Meta(min_length=8, max_length=512)]
RETURN_URL_CHARS_MAX = 256  # what every channel takes: else an order is taken that some method can not pay
REASON_CHARS_MAX = 80  # WeChat Pay takes no more
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
    return_url: Annotated[str, Meta(min_length=8, max_length=RETURN_URL_CHARS_MAX)] | None = None
    metadata: Annotated[dict[Label, Annotated[str, Meta(max_length=512)]], Meta(max_length=50)] | None = None
    late_payment: Literal["accept", "refund", "hold"] = "accept"


class Pay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/orders/{order_id}/pay`."""

    channel: Word
    method: Word
    params: Annotated[dict[str, Any], Meta(max_length=20)] | None = None  # what is right in them the method says


class CreateRefund(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/orders/{order_id}/refunds`. `reason` is what the payer reads at the platform."""

    out_refund_no: OutOrderNo
    amount: Amount
    reason: Annotated[str, Meta(max_length=REASON_CHARS_MAX)] = ""


class ResolveCase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/cases/{case_id}/resolve`: what is done, who decided it, and why."""

    action: Literal["retry", "accept", "refund", "close"]
    by: Label
    note: Annotated[str, Meta(min_length=3, max_length=1000)]


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
        if self._may_repeat(raw) or _may_hide(raw):
            _refuse_hidden(raw)
        return value

    def _may_repeat(self, raw: bytes) -> bool:
        for name in self._names:  # a loop and no generator: this is on every create's way
            if raw.count(name) > 1:
                return True
        return raw.count(b"{") > 1


class _Empty(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a call that takes none."""


_read_empty = Reader(_Empty)


async def read_bytes(request: Call) -> bytes:
    """The raw body, in time and within the size the application allows.

    Raises:
        Problem: 408, or 400 if the body broke off.
        web.HTTPRequestEntityTooLarge: there is more of it.
    """
    if request.content.is_eof():
        return await request.read()
    try:
        async with asyncio.timeout(BODY_WAIT_S):
            return await request.read()
    except TimeoutError:
        raise Problem("request_timeout") from None
    except (ConnectionError, web.RequestPayloadError):
        raise Problem("request_malformed", "the body broke off") from None


async def read(request: Call, reader: Reader[T]) -> T:
    """The decoded JSON body."""
    if request.headers.get("Content-Type") != "application/json" and request.content_type != "application/json":
        raise Problem("content_type_unsupported", "send Content-Type: application/json", param="Content-Type")
    _refuse_encoding(request)
    return reader(await read_bytes(request))


async def read_nothing(request: Call) -> None:
    """Refuse a body that says anything: none and an empty object are the same."""
    _refuse_encoding(request)
    if raw := await read_bytes(request):
        _read_empty(raw)


def check_url(name: str, url: str | None) -> None:
    """Refuse what can not be called."""
    if url is not None and (fault := fault_of(url)):
        raise Problem("parameter_invalid", fault, param=name)


def number_asked_for(request: Call, name: str) -> str:
    """An app's number in the query, checked as strictly as when it was given: no other can exist."""
    given = request.query.getall(name, [])
    if not any(given):
        raise Problem("parameter_missing", f"name it: ?{name}=", param=name)
    if len(given) > 1:
        raise Problem("parameter_duplicate", "one at a time", param=name)
    if not OUT_ORDER_NO.match(given[0]):
        raise Problem("parameter_invalid", f"expected {OUT_ORDER_NO.pattern}", param=name)
    return str(given[0])


def _refuse_encoding(request: Call) -> None:
    if "Content-Encoding" in request.headers:
        raise Problem("content_type_unsupported", "send the body as it is", param="Content-Encoding")


_PATH = re.compile(r" - at (?:`key` in )?`\$\.?(.*)`$")
_FIELD = re.compile(r"(?:unknown|required) field `(.*?)`")


def _invalid(message: str) -> Problem:
    path = _PATH.search(message)
    field = _FIELD.search(message)
    inside = path[1] if path else ""
    param = ".".join(part for part in (inside, field[1] if field else "") if part) or None
    detail = message.partition(" - at ")[0]
    if field is None:
        return Problem("parameter_invalid" if param else "body_malformed", detail, param=param)
    return Problem("parameter_unknown" if "unknown field" in message else "parameter_missing", detail, param=param)


def _may_hide(raw: bytes) -> bool:
    return b"\\" in raw or b"\x7f" in raw or (not raw.isascii() and _C1.search(raw) is not None)


def _refuse_hidden(raw: bytes) -> None:
    """The slow way: look at every name and every text."""
    try:
        for path, text in _texts(json.loads(raw, object_pairs_hook=_once), ""):
            if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
                detail = "control characters and lone surrogates are not allowed"
                raise Problem("parameter_invalid", detail, param=path)
    except (ValueError, RecursionError) as error:
        raise Problem("body_malformed", str(error)) from None


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
