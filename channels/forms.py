"""Forms as the wire writes them (`application/x-www-form-urlencoded`), in a charset that the form itself may name."""

import re
from binascii import a2b_qp
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote_plus

import msgspec

FIELDS_MAX: Final = 200  # a real notification has thirty

BYTES: Final = "latin-1"  # the charset in which every byte is a sign

_BEGINNING: Final = re.compile(r"&[a-z]\w+=", re.ASCII)  # as the platforms name fields; `A&B=C` may be a subject

_TWICE: Final = "a field is there twice"

# A form is decoded at once, and taken apart afterwards: until then these two stand for its `&` and `=`.
_AND, _IS = "\x1e", "\x1f"
_LF, _CR = b"\n\r"
_AT_ONCE: Final = bytes.maketrans(b"+&=%", b" \x1e\x1f=")
_SEPARATED: Final = bytes.maketrans(b"\x1e\x1f", b"&=")
_QUOTED: Final = tuple(quote_plus(bytes([byte])) for byte in range(256))
# In this order: what another sign becomes must not be taken for that sign.
_SIGNS: Final = tuple((sign, quote_plus(sign)) for sign in "%+ !\"#$&'()*,/:;<=>?@[\\]^`{|}")


class FormError(ValueError):
    """Not a form, or one that says a thing twice: none of the two may be picked."""


def quoted(said: str, charset: str = "utf-8") -> str:
    """Percent-encoded, a blank as `+`: for a form, a query, or a form inside of a form."""
    if said.isascii() and said.isprintable():
        return _quoted_signs(said)
    return said.encode(charset).decode(BYTES).translate(_QUOTED)


def encode(fields: Mapping[str, str], charset: str = "utf-8") -> bytes:
    """The form's bytes, names and values percent-encoded, in the order given."""
    names, values = "".join(fields), "".join(fields.values())
    if names.isascii() and names.isprintable() and values.isascii() and values.isprintable():
        whole = _quoted_signs(_AND.join([f"{name}{_IS}{value}" for name, value in fields.items()]))
        return whole.encode("ascii").translate(_SEPARATED)
    return "&".join([f"{quoted(k, charset)}={quoted(v, charset)}" for k, v in fields.items()]).encode("ascii")


def _quoted_signs(said: str) -> str:
    for sign, quoted_sign in _SIGNS:  # there are fewer signs than a long text has letters
        if sign in said:
            said = said.replace(sign, quoted_sign)
    return said


class Form(msgspec.Struct, frozen=True):
    """A form, decoded once. In `fields` a sign is a byte, whatever the charset: `text` makes text of a value. What is
    ASCII is text already."""

    fields: Mapping[str, str]
    _parts: list[str] | None  # the same, with `_IS` between name and value, where that byte is in neither
    _suspect: bool  # there may be an `&` in one of them

    def string(self, but: Sequence[str] = (), *, empties: bool = False) -> bytes:
        """`name=value&name=value`, by the names' order: what platforms sign of a form.

        Args:
            but: fields that are left out.
            empties: whether fields without a value are in it.
        """
        if self._parts is None or (not empties and "" in self.fields.values()):
            kept = [name for name, value in self.fields.items() if name not in but and (value or empties)]
            return "&".join([f"{name}={self.fields[name]}" for name in sorted(kept)]).encode(BYTES)
        parts = sorted(self._parts)
        for name in but:
            if name in self.fields:
                parts.remove(f"{name}{_IS}{self.fields[name]}")
        return "&".join(parts).replace(_IS, "=").encode(BYTES)

    def holds_other_fields(self) -> bool:
        """Whether a name or value holds what would begin another field: `&name=`.

        Who signs `a=1&b=2` signs raw values, and that string can also be cut into one field: `a`, which is `1&b=2`. It
        is no less signed then; only whoever refuses such fields knows what was said. Without an `&` inside, every field
        is still one field.
        """
        if not self._suspect:
            return False
        return any("&" in name for name in self.fields) or any(map(_BEGINNING.search, self.fields.values()))


def read(body: bytes) -> Form:
    """Names and values.

    Raises:
        FormError: not percent-encoded, a name that is there twice, or more than FIELDS_MAX fields.
    """
    separators = body.count(b"&")
    if separators >= FIELDS_MAX:
        raise FormError(f"more than {FIELDS_MAX} fields")
    whole = _unescaped(body).decode(BYTES)
    parts = whole.split(_AND)
    if not len(parts) == separators + 1 == body.count(b"="):
        return _read_slowly(body)
    try:
        fields = dict([part.split(_IS) for part in parts])
    except ValueError:  # one part has no sign, another has two
        return _read_slowly(body)
    if len(fields) != len(parts):
        raise FormError(_TWICE)
    return Form(fields, parts, "&" in whole)


def _read_slowly(body: bytes) -> Form:
    """A form with empty parts, with parts that hold no `=` or two, or with the bytes that stand for what separates."""
    pairs = [part.partition(b"=") for part in body.split(b"&") if part]
    fields = {
        _unescaped(name).decode(BYTES): _unescaped(value.replace(b"=", b"%3D")).decode(BYTES)
        for name, _, value in pairs
    }
    if len(fields) != len(pairs):
        raise FormError(_TWICE)
    return Form(fields, None, _suspect=True)


def text(value: str, charset: str) -> str:
    """What a value of a `Form` says.

    Raises:
        FormError: bytes that are not text in this charset.
    """
    try:
        return value.encode(BYTES).decode(charset)
    except UnicodeDecodeError as error:
        raise FormError(f"not {charset}") from error


def decode(body: bytes, charset: str = "utf-8") -> dict[str, str]:
    """The form's fields as text.

    Raises:
        FormError: as `read`, or bytes that are not text in this charset.
    """
    return {text(name, charset): text(value, charset) for name, value in read(body).fields.items()}


def _unescaped(written: bytes) -> bytes:
    """What was percent-encoded, with the separators' stand-ins for those that are not.

    Quoted-printable is the same code with another sign, and read in C: a third of the time of urllib's loop. It also
    takes what is no percent-encoding: of an escape three bytes become one, of anything else more is left; but behind a
    line end it loses what follows.

    Raises:
        FormError: not percent-encoded.
    """
    if _LF in written or _CR in written:
        raise FormError("a line end that is not percent-encoded")
    plain = a2b_qp(written.translate(_AT_ONCE))
    if len(plain) != len(written) - 2 * written.count(b"%"):
        raise FormError("a % that begins no escape")
    return plain
