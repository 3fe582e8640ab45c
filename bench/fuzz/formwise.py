"""Mutations of a form: fields that money hangs on are changed, dropped, doubled, renamed, written in other ways.

Whoever forges a form knows what a form is: these mutants are well-formed far more often than those of `bytewise`.
"""

from collections.abc import Callable, Sequence
from random import Random
from urllib.parse import quote_plus

import msgspec

from bench.fuzz.bytewise import TOKENS, Mutation, any_edit
from bench.fuzz.message import BODY_BYTES_MAX, Message, Pairs, body_of, decoded, pairs_of

Fields = list[tuple[bytes, bytes]]

CHARSETS = ("gbk", "utf-8", "latin-1", "utf-16-le")
FIELDS_MANY = (199, 200, 201, 1_000, 6_000)


class Form(msgspec.Struct, frozen=True):
    """What a forger knows of a platform's form.

    `telling` fields decide about money. `downgrades` set one field, or drop it where the value is None, so that weaker
    checks might be made. `unsigned` fields are, beside the signature, no part of the string that is signed, which is
    `name=value&name=value` in the names' order.
    """

    signature: bytes
    unsigned: tuple[bytes, ...]
    telling: tuple[bytes, ...]
    downgrades: tuple[tuple[bytes, bytes | None], ...]

    def mutations(self) -> tuple[tuple[int, str, Mutation], ...]:
        """All of them, with their weights and names."""
        named: tuple[tuple[int, str, Callable[[Random, Fields, Pairs], Fields]], ...] = (
            (10, "telling field changed", self._change_telling),
            (4, "field edited", _edit),
            (3, "field dropped", _drop),
            (3, "telling field dropped", self._drop_telling),
            (6, "field doubled", self._double),
            (4, "field renamed", _rename),
            (3, "fields exchanged", _exchange),
            (4, "fields of another", _take_over),
            (3, "signature of another", self._signature_of_another),
            (3, "field emptied", _empty),
            (4, "field added", self._add),
            (2, "fields reordered", _reorder),
            (4, "fields recut", self._recut),
            (3, "encoded otherwise", _respell),
            (2, "encoded loosely", _loosen),
            (3, "encoded twice", _encode_twice),
            (3, "charset", _charset),
            (1, "huge value", _huge),
            (1, "many fields", _many),
            (5, "downgrade", self._downgrade),
        )
        return tuple((weight, name, _on_fields(change)) for weight, name, change in named)

    def _change_telling(self, dice: Random, fields: Fields, other: Pairs) -> Fields:
        """Another amount, number or account, plausible or not, under the old signature."""
        at = _find(dice, fields, self.telling)
        name, value = fields[at]
        fields[at] = name, dice.choice(_OTHERWISE)(dice, value)
        return fields

    def _drop_telling(self, dice: Random, fields: Fields, other: Pairs) -> Fields:
        at = _find(dice, fields, (*self.telling, self.signature))
        return fields[:at] + fields[at + 1 :]

    def _double(self, dice: Random, fields: Fields, other: Pairs) -> Fields:
        """A field once more: in front, behind or anywhere; with its value, another's or a changed one."""
        at = _find(dice, fields, self.telling) if dice.random() < 0.7 else dice.randrange(len(fields))
        name, value = fields[at]
        values = (value, dict(other).get(name, b""), any_edit(dice, value), b"")
        place = dice.choice((0, len(fields), dice.randrange(len(fields) + 1)))
        fields.insert(place, (name, dice.choice(values)))
        return fields

    def _signature_of_another(self, dice: Random, fields: Fields, other: Pairs) -> Fields:
        at = _find(dice, fields, (self.signature,))
        fields[at] = self.signature, dict(other).get(self.signature, b"")
        return fields

    def _add(self, dice: Random, fields: Fields, other: Pairs) -> Fields:
        name = dice.choice((b"extra", b"", b"%00", b"sign_type", b"\xff", b"__proto__", *self.telling))
        new = (b"" if dice.random() < 0.3 else b"x") + name, dice.choice((b"", b"1", dice.choice(TOKENS)))
        fields.insert(dice.randrange(len(fields) + 1), new)
        return fields

    def _downgrade(self, dice: Random, fields: Fields, other: Pairs) -> Fields:
        """A weaker algorithm or none, perhaps with another amount."""
        if dice.random() < 0.3:
            fields = self._change_telling(dice, fields, other)
        name, value = dice.choice(self.downgrades)
        kept = [field for field in fields if field[0] != name]
        return kept if value is None else [*kept, (name, value)]

    def _recut(self, dice: Random, fields: Fields, other: Pairs) -> Fields:
        """The same signed string, cut into other fields: one becomes a part of its neighbour's value or name."""
        kept = [field for field in fields if field[0] in (self.signature, *self.unsigned)]
        signed = sorted(field for field in fields if field not in kept)
        if len(signed) < 2:
            return fields
        at = dice.randrange(len(signed) - 1)
        more = dice.randrange(at + 1, len(signed)) if dice.random() < 0.2 else at + 1
        whole = b"%26".join(name + b"%3D" + value for name, value in signed[at : more + 1])
        cuts = whole.count(b"%3D")
        cut = 0 if dice.random() < 0.6 else dice.randrange(cuts)
        parts = whole.split(b"%3D")
        joined = b"%3D".join(parts[: cut + 1]), b"%3D".join(parts[cut + 1 :])
        return [*signed[:at], joined, *signed[more + 1 :], *kept]


def _on_fields(change: Callable[[Random, Fields, Pairs], Fields]) -> Mutation:
    def mutation(dice: Random, message: Message, others: Sequence[Message]) -> Message:
        fields = change(dice, list(pairs_of(message.body)), pairs_of(dice.choice(others).body))
        return message._replace(body=body_of(tuple(fields)))

    return mutation


def _find(dice: Random, fields: Fields, names: Sequence[bytes]) -> int:
    """Where one of these fields is; anywhere, if none is there."""
    found = [at for at, (name, _) in enumerate(fields) if name in names]
    return dice.choice(found) if found else dice.randrange(len(fields))


def _more(dice: Random, value: bytes) -> bytes:
    """A digit is another one."""
    places = [at for at, byte in enumerate(value) if 48 <= byte <= 57]
    if not places:
        return value + b"1"
    at = dice.choice(places)
    return value[:at] + b"%d" % ((value[at] - 48 + dice.randrange(1, 10)) % 10) + value[at + 1 :]


_OTHERWISE: tuple[Callable[[Random, bytes], bytes], ...] = (
    *(_more, _more, _more, any_edit),
    lambda dice, value: value + dice.choice((b"0", b"00", b".00", b"%20", b"%00", b"%0A", b"e2")),
    lambda dice, value: dice.choice((b"0", b"-", b"%2B", b"%20", b"%EF%BC%91", b"1e")) + value,
    lambda dice, value: dice.choice((b"0", b"0.01", b"1", b"-1", b"99999999999999999999", b"NaN", b"1e308", b"null")),
    lambda dice, value: value.swapcase() if value.swapcase() != value else value[::-1],
)


def _edit(dice: Random, fields: Fields, other: Pairs) -> Fields:
    at = dice.randrange(len(fields))
    fields[at] = fields[at][0], any_edit(dice, fields[at][1])
    return fields


def _drop(dice: Random, fields: Fields, other: Pairs) -> Fields:
    if dice.random() < 0.1:
        return [field for field in fields if dice.random() < 0.5]
    at = dice.randrange(len(fields))
    return fields[:at] + fields[at + 1 :]


def _rename(dice: Random, fields: Fields, other: Pairs) -> Fields:
    at = dice.randrange(len(fields))
    name, value = fields[at]
    names = (
        name.upper(),
        name + b"[]",
        name + b"%00",
        b"%20" + name,
        name + b".x",
        name[:-1],
        name.replace(b"_", b"-"),
    )
    fields[at] = dice.choice((*names, b"%%%02X" % name[0] + name[1:] if name else b"x")), value
    return fields


def _exchange(dice: Random, fields: Fields, other: Pairs) -> Fields:
    a, b = dice.randrange(len(fields)), dice.randrange(len(fields))
    fields[a], fields[b] = (fields[a][0], fields[b][1]), (fields[b][0], fields[a][1])
    return fields


def _take_over(dice: Random, fields: Fields, other: Pairs) -> Fields:
    """Some fields are another message's."""
    theirs = dict(other)
    share = dice.choice((0.1, 0.5, 0.9))
    return [(name, theirs.get(name, value) if dice.random() < share else value) for name, value in fields]


def _empty(dice: Random, fields: Fields, other: Pairs) -> Fields:
    at = dice.randrange(len(fields))
    fields[at] = fields[at][0], b""
    return fields


def _reorder(dice: Random, fields: Fields, other: Pairs) -> Fields:
    """Neutral: who reads a form does not mind."""
    dice.shuffle(fields)
    return fields


def _respell(dice: Random, fields: Fields, other: Pairs) -> Fields:
    """Neutral: the same bytes, percent-encoded more, less or in small letters."""
    return [(name, dice.choice(_SPELLINGS)(value)) for name, value in fields]


_SPELLINGS: tuple[Callable[[bytes], bytes], ...] = (
    lambda value: value,
    lambda value: value.replace(b"+", b"%20"),
    lambda value: b"".join(b"%%%02x" % byte for byte in decoded(value)),
    lambda value: quote_plus(decoded(value), safe="/:,{}[]\"'").encode(),
)


def _loosen(dice: Random, fields: Fields, other: Pairs) -> Fields:
    """Written as no form is, though some readers make the same of it."""
    at = dice.randrange(len(fields))
    name, value = fields[at]
    loosened = dice.choice(_LOOSE)(value)
    return [*fields[:at], (name, loosened), *fields[at + 1 :]]


_LOOSE: tuple[Callable[[bytes], bytes], ...] = (
    lambda value: value.replace(b"%3D", b"%%"),
    lambda value: value.replace(b"%3D", b"%3d%"),
    lambda value: value.replace(b"%3D", b"="),
    lambda value: value.replace(b"%", b"%%", 1),
    lambda value: value[: len(value) // 2] + b"%\n" + value[len(value) // 2 :],
    lambda value: value[: len(value) // 2] + b"%\r\n" + value[len(value) // 2 :],
    lambda value: value[: len(value) // 2] + b"%" + value[len(value) // 2 :],
    lambda value: value.replace(b"%2B", b"%u002B"),
    lambda value: value.replace(b"+", b"\t"),
    lambda value: value + b"%",
    lambda value: value + b" ",
    lambda value: b" " + value,
)


def _encode_twice(dice: Random, fields: Fields, other: Pairs) -> Fields:
    """Or thrice; all fields or one."""
    at = dice.randrange(len(fields)) if dice.random() < 0.5 else None
    return [(name, _quoted(value) if at in (None, place) else value) for place, (name, value) in enumerate(fields)]


def _quoted(value: bytes) -> bytes:
    return quote_plus(value).encode()


def _charset(dice: Random, fields: Fields, other: Pairs) -> Fields:
    """Values in another charset, and perhaps the name of it."""
    charset = dice.choice(CHARSETS)
    if dice.random() < 0.6:
        fields = [(name, quote_plus(_recoded(decoded(value), charset)).encode()) for name, value in fields]
    said = dice.choice((charset, charset.upper(), "gb18030", "utf-7", "idna", "", "\0", "x" * 500)).encode()
    return [(name, said if name in (b"charset", b"encoding") and dice.random() < 0.7 else v) for name, v in fields]


def _recoded(value: bytes, charset: str) -> bytes:
    return value.decode("utf-8", "replace").encode(charset, "replace")


def _huge(dice: Random, fields: Fields, other: Pairs) -> Fields:
    """As much as a body may hold, in one value or name."""
    at = dice.randrange(len(fields))
    name, value = fields[at]
    room = max(1, BODY_BYTES_MAX - len(body_of(tuple(fields))) - dice.choice((0, 0, 30_000)))
    piece = dice.choice((b"9", b"A", b"%41", b"%ED%A0%80", b"%", b"{", b"[", b"%0A", b"%0D%0A", b"+", b"-----BEGIN "))
    filling = (piece * (room // len(piece) + 1))[:room]
    fields[at] = (name + filling, value) if dice.random() < 0.2 else (name, dice.choice((filling, value + filling)))
    return fields


def _many(dice: Random, fields: Fields, other: Pairs) -> Fields:
    count = dice.choice(FIELDS_MANY)
    value = dice.choice((b"", b"1", b"%00"))
    return fields + [(b"f%d" % number, value) for number in range(count - len(fields))]
