"""Forms as the wire writes them (`application/x-www-form-urlencoded`), in a charset that the form itself may name."""

from collections.abc import Mapping
from urllib.parse import quote_plus, unquote_to_bytes

FIELDS_MAX = 200  # a real notification has thirty


class FormError(ValueError):
    """Not a form, or one that says a thing twice: none of the two may be picked."""


def encode(fields: Mapping[str, str], charset: str = "utf-8") -> bytes:
    """The form's bytes, names and values percent-encoded, a blank as `+`."""
    return "&".join(
        f"{quote_plus(k, encoding=charset)}={quote_plus(v, encoding=charset)}" for k, v in fields.items()
    ).encode()


def decode_bytes(body: bytes) -> dict[bytes, bytes]:
    """Names and values, decoded once, as bytes: whoever knows the charset makes text of them.

    Raises:
        FormError: a name that is there twice, or more than FIELDS_MAX fields.
    """
    parts = [part for part in body.split(b"&") if part]
    if len(parts) > FIELDS_MAX:
        raise FormError(f"more than {FIELDS_MAX} fields")
    fields: dict[bytes, bytes] = {}
    for part in parts:
        name, _, value = part.replace(b"+", b" ").partition(b"=")
        key = unquote_to_bytes(name)
        if key in fields:
            raise FormError("a field is there twice")
        fields[key] = unquote_to_bytes(value)
    return fields


def decode(body: bytes, charset: str = "utf-8") -> dict[str, str]:
    """The form's fields as text.

    Raises:
        FormError: as `decode_bytes`, or bytes that are not text in this charset.
    """
    try:
        return {name.decode(charset): value.decode(charset) for name, value in decode_bytes(body).items()}
    except UnicodeDecodeError as error:
        raise FormError(f"not {charset}") from error
