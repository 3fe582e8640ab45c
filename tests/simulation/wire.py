"""What crosses the wire to the simulated database and back: parameters as encoded, records as they are read."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec
from asyncpg import exceptions

_skim = msgspec.json.Decoder(msgspec.Raw).decode


class Record(tuple[Any, ...]):
    """A row of a result, read by position or by name. Each shape of result has a class of its own (`records`)."""

    __slots__ = ()
    places: ClassVar[dict[str, int]] = {}

    def __getitem__(self, key: Any) -> Any:
        return tuple.__getitem__(self, self.places[key] if type(key) is str else key)

    def items(self) -> list[tuple[str, Any]]:
        """The columns' names and values."""
        return list(zip(self.places, self, strict=True))

    def keys(self) -> list[str]:
        """The columns' names."""
        return list(self.places)


def records(*names: str) -> Callable[[Sequence[Any]], Record]:
    """Makes records with these columns."""
    return type("Record", (Record,), {"__slots__": (), "places": {name: at for at, name in enumerate(names)}})


ROW = records()(())  # stands for a row that was written and of which nothing is returned


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise _data_error(value, "expected str")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _data_error(value, str(error)) from None
    if "\0" in value:
        raise exceptions.CharacterNotInRepertoireError('invalid byte sequence for encoding "UTF8": 0x00')
    return str.__str__(value)  # an enum's member comes back as plain text


def _json(value: Any) -> str | None:
    text = _text(value)
    if text is not None:
        try:
            _skim(text)
        except msgspec.DecodeError as error:
            raise exceptions.InvalidTextRepresentationError(f"invalid input syntax for type json: {error}") from None
    return text


def _integer(bits: int) -> Callable[[Any], int | None]:
    bound = 1 << bits - 1

    def encode(value: Any) -> int | None:
        if value is not None and not (isinstance(value, int) and -bound <= value < bound):
            raise _data_error(value, f"expected an integer of {bits} bits")
        return value

    return encode


def _of(kind: type | tuple[type, ...]) -> Callable[[Any], Any]:
    def encode(value: Any) -> Any:
        if value is not None and not isinstance(value, kind):
            raise _data_error(value, f"expected {kind}")
        return value

    return encode


_ENCODERS: dict[str, Callable[[Any], Any]] = {
    "text": _text,
    "json": _json,
    "int": _integer(32),
    "bigint": _integer(64),
    "bool": _of(bool),
    "bytea": _of((bytes, bytearray, memoryview)),
    "float8": _of((int, float)),
}


def encoder(kind: str) -> Callable[[Any], Any]:
    """What encodes one value of an SQL type; raises as `encoded` does."""
    return _ENCODERS[kind]


def encoded(value: Any, kind: str) -> Any:
    """A parameter as it arrives; `kind` is its SQL type, with [] if it is an array. `json` is text that is cast.

    Raises:
        DataError: asyncpg would not send it.
        CharacterNotInRepertoireError: Postgres would not take it.
    """
    if kind.endswith("[]"):
        encode = _ENCODERS[kind[:-2]]
        return [encode(element) for element in value]
    return _ENCODERS[kind](value)


def _data_error(value: Any, why: str) -> exceptions.DataError:
    return exceptions.DataError(f"invalid input for query argument: {value!r:.80} ({why})")
