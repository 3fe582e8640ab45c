"""A notification as it travels, what the gateway's channels see of it, and what it says.

`form_meaning` and `sealed_meaning` are the oracle: a mutant that says exactly what a genuine notification says is
neutral (another order of a form's fields, `%20` for `+`), and is rightly believed. They read messages with code of
their own, so that a mistake of `channels/forms.py` is not made twice.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import NamedTuple, TypeAlias
from urllib.parse import quote_plus, unquote_to_bytes

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
Pairs: TypeAlias = tuple[tuple[bytes, bytes], ...]

BODY_BYTES_MAX = 65_536  # what the gateway reads of a body by default
_UNSENDABLE = bytes.maketrans(b"\r\n", b"\x0b\x0b")  # in a head they would end a line: another request, not a mutant


class Message(NamedTuple):
    """A POST: its path, its headers as they are written, its body."""

    path: bytes
    headers: Headers
    body: bytes

    def wire(self) -> bytes:
        """The request's bytes, on a connection that is kept alive."""
        lines = [
            b"POST %b HTTP/1.1\r\nHost: fuzz\r\nContent-Length: %d" % (_one_line(self.path), len(self.body)),
            *[_one_line(name) + b": " + _one_line(value) for name, value in self.headers],
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body

    def headers_seen(self) -> dict[str, str]:
        """By lower-case name; all values of one that came twice; bytes that are not text escaped."""
        seen: dict[str, str] = {}
        for name, value in self.headers:
            key = name.decode("latin-1").lower()
            text = _one_line(value).decode("utf-8", "backslashreplace").strip(" \t")
            seen[key] = f"{seen[key]}, {text}" if key in seen else text
        return seen


class Voucher(Enum):
    """Who stands behind a message.

    NOBODY: it may never be believed. PLATFORM: it signed that, odd as it is, so it may be believed, but credits nothing
    save what was ordered. PLATFORM_FOR_ANOTHER: the same, about another merchant's money.
    """

    NOBODY = auto()
    PLATFORM = auto()
    PLATFORM_FOR_ANOTHER = auto()


class Crafted(NamedTuple):
    """A message that was made wrong: `mutation` says how."""

    mutation: str
    message: Message
    voucher: Voucher = Voucher.NOBODY


class Mutant(NamedTuple):
    """A crafted or mutated message with its number."""

    number: int
    mutation: str
    message: Message
    voucher: Voucher = Voucher.NOBODY

    @property
    def may_be_believed(self) -> bool:
        """Whether an acknowledgement is a right answer."""
        return self.voucher is not Voucher.NOBODY


def message_of(url: str, headers: Mapping[str, str], body: bytes) -> Message:
    """A notification as the simulator hands it out."""
    path = "/" + url.partition("://")[2].partition("/")[2]
    return Message(path.encode(), tuple((name.encode(), value.encode()) for name, value in headers.items()), body)


def pairs_of(body: bytes) -> Pairs:
    """A form's fields as they are written, not decoded."""
    return tuple((name, value) for name, _, value in (part.partition(b"=") for part in body.split(b"&")))


def body_of(pairs: Pairs) -> bytes:
    """The form again."""
    return b"&".join([name + b"=" + value for name, value in pairs])


def fields_of(message: Message) -> dict[bytes, bytes]:
    """A form's fields, decoded."""
    return {decoded(name): decoded(value) for name, value in pairs_of(message.body)}


def with_fields(message: Message, fields: Mapping[bytes, bytes]) -> Message:
    """The same with these fields, encoded as a browser does."""
    pairs = tuple((quote_plus(name).encode(), quote_plus(value).encode()) for name, value in fields.items())
    return message._replace(body=body_of(pairs))


def form_meaning(message: Message) -> object:
    """The path and the decoded fields, without empty ones; None where a field is there twice, for it has none."""
    fields: dict[bytes, bytes] = {}
    for part in message.body.split(b"&"):
        written_name, _, written_value = part.partition(b"=")
        if not part:
            continue
        name, value = decoded(written_name), decoded(written_value)
        if name in fields:
            return None
        fields[name] = value
    return _path(message), {name: value for name, value in fields.items() if value}


def sealed_meaning(message: Message) -> object:
    """The path, the raw body and the headers that sign it (WeChat Pay's way)."""
    seen = message.headers_seen()
    scheme = seen.get("wechatpay-signature-type", "WECHATPAY2-SHA256-RSA2048")
    signing = (seen.get(f"wechatpay-{name}") for name in ("timestamp", "nonce", "serial", "signature"))
    return _path(message), message.body, scheme, *signing


def decoded(written: bytes) -> bytes:
    """A form's name or value, decoded once."""
    text = written.replace(b"+", b" ")
    return unquote_to_bytes(text) if b"%" in text else text


def _path(message: Message) -> bytes:
    return message.path.partition(b"?")[0]


def _one_line(text: bytes) -> bytes:
    return text.translate(_UNSENDABLE)
