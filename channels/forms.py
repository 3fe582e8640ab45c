"""Forms as the wire writes them (`application/x-www-form-urlencoded`), in a charset that the form itself may name."""

import re
from binascii import a2b_qp
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote_plus

FIELDS_MAX: Final = 200  # a real notification has thirty

_BEGINNING: Final = re.compile(rb"&[a-z]\w+=", re.ASCII)  # as the platforms name fields; `A&B=C` may be a subject

# A form is decoded at once, and taken apart afterwards: until then these two stand for its `&` and `=`.
_AND, _IS = b"\x1e", b"\x1f"
_AT_ONCE: Final = bytes.maketrans(b"+&=%", b" " + _AND + _IS + b"=")
_QUOTED: Final = tuple(quote_plus(bytes([byte])) for byte in range(256))


class FormError(ValueError):
    """Not a form, or one that says a thing twice: none of the two may be picked."""


def quoted(text: str, charset: str = "utf-8") -> str:
    """Percent-encoded, a blank as `+`: for a form, a query, or a form inside of a form."""
    return text.encode(charset).decode("latin-1").translate(_QUOTED)


def encode(fields: Mapping[str, str], charset: str = "utf-8") -> bytes:
    """The form's bytes, names and values percent-encoded, in the order given."""
    return "&".join([f"{quoted(k, charset)}={quoted(v, charset)}" for k, v in fields.items()]).encode("ascii")


def decode_bytes(body: bytes) -> dict[bytes, bytes]:
    """Names and values, decoded once, as bytes: whoever knows the charset makes text of them.

    Raises:
        FormError: not percent-encoded, a name that is there twice, or more than FIELDS_MAX fields.
    """
    separators, signs = body.count(b"&"), body.count(b"=")
    if separators >= FIELDS_MAX:
        raise FormError(f"more than {FIELDS_MAX} fields")
    whole = _unescaped(body)
    parts = whole.split(_AND)
    if len(parts) == separators + 1 and whole.count(_IS) == signs:
        pairs = [part.partition(_IS) for part in parts if part]
    else:  # the bytes that stand for the separators are also a part of what is said
        written = [part.partition(b"=") for part in body.split(b"&") if part]
        pairs = [(_unescaped(name), sign, _unescaped(value.replace(b"=", b"%3D"))) for name, sign, value in written]
        signs = 0
    fields = {name: value for name, _, value in pairs}
    if len(fields) != len(pairs):
        raise FormError("a field is there twice")
    if signs > len(pairs):
        fields = {name: value.replace(_IS, b"=") for name, value in fields.items()}
    return fields


def holds_other_fields(fields: Mapping[bytes, bytes]) -> bool:
    """Whether a name or value holds what would begin another field: `&name=`.

    Who signs `a=1&b=2` signs raw values, and that string can also be cut into one field: `a`, which is `1&b=2`. It is
    no less signed then; only whoever refuses such fields knows what was said.
    """
    names = b"".join(fields)
    if b"&" in names or b"=" in names:
        return True
    return b"&" in b"".join(fields.values()) and any(map(_BEGINNING.search, fields.values()))


def decode(body: bytes, charset: str = "utf-8") -> dict[str, str]:
    """The form's fields as text.

    Raises:
        FormError: as `decode_bytes`, or bytes that are not text in this charset.
    """
    try:
        return {name.decode(charset): value.decode(charset) for name, value in decode_bytes(body).items()}
    except UnicodeDecodeError as error:
        raise FormError(f"not {charset}") from error


def _unescaped(text: bytes) -> bytes:
    """What was percent-encoded, with the separators' stand-ins for those that are not.

    Quoted-printable is the same code with another sign, and read in C: a third of the time of urllib's loop. It also
    takes what is no percent-encoding: of an escape three bytes become one, of anything else more is left; but behind a
    line end it loses what follows.

    Raises:
        FormError: not percent-encoded.
    """
    if b"\n" in text or b"\r" in text:
        raise FormError("a line end that is not percent-encoded")
    plain = a2b_qp(text.translate(_AT_ONCE))
    if len(plain) != len(text) - 2 * text.count(b"%"):
        raise FormError("a % that begins no escape")
    return plain
