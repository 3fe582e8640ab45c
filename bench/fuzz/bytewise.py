"""Mutations that know nothing of what they break: bits, bytes, headers, paths.

A mutation is told its dice, the message and other messages of the same channel, and returns another message. It draws
nothing but from those dice, so that a seed and a number make the same mutant of the same message again.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeAlias

from bench.fuzz.message import BODY_BYTES_MAX, Message

Mutation: TypeAlias = Callable[[Random, Message, Sequence[Message]], Message]
Edit: TypeAlias = Callable[[Random, bytes], bytes]

SLICE_BYTES_MAX = 64
CHARSETS = ("gbk", "utf-16", "utf-16-le", "utf-8-sig", "utf-7")
NEXT_TO_NOTHING = (b"", b" ", b"\n", b"{}", b"[]", b"null", b"0", b'""', b"=", b"&", b"a=b")
ODD_VALUES = (
    *(b"", b" ", b"0", b"-1", b"null", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b","),
    *(b"9" * 5_000, b"A" * 7_000, b"=" * 344),
)
TOKENS = (
    *(b"\x00", b"%00", b"\x7f", b"\x1b[2J", b"\r\n", b"%0D%0A", b"\n\n", b"\t", b" ", b"+", b"%20"),
    *(b"&", b"&&", b"=", b"==", b";", b"%", b"%%", b"%2", b"%zz", b"%26", b"%3D", b"%u0041", b"?", b"#", b"/../"),
    *(b"\xed\xa0\x80", b"%ED%A0%80", b"\\ud800", b"\xff\xfe", b"\xc0\x80", b"\xef\xbb\xbf", b"\xf4\x90\x80\x80"),
    *(b"\x81\x30\x81\x30", b"%81%30", b"\xe2\x80\xae", b"\xc2\xa0", "＝".encode(), "０".encode()),
    *(b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b"null", b"NaN", b"1e999", b"-0", b"-1", b"9" * 400, b"0x10"),
    *(b"amount=1", b"sign=", b"signature=", b"&sign_type=RSA", b"&version=5.0.0", b"<!--", b"${jndi:ldap://x}"),
)


# --- bytes ------------------------------------------------------------------------------------------------------------


def flip_bits(dice: Random, data: bytes) -> bytes:
    """One bit, or up to eight."""
    changed = bytearray(data or b"\x00")
    for _ in range(1 if dice.random() < 0.7 else dice.randrange(2, 9)):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def insert(dice: Random, data: bytes) -> bytes:
    """A few bytes, or something that means something somewhere."""
    at = dice.randrange(len(data) + 1)
    new = dice.choice(TOKENS) if dice.random() < 0.7 else dice.randbytes(dice.randrange(1, 17))
    return data[:at] + new + data[at:]


def overwrite(dice: Random, data: bytes) -> bytes:
    """The same, in place of what stood there."""
    at = dice.randrange(len(data) + 1)
    new = dice.choice(TOKENS) if dice.random() < 0.7 else dice.randbytes(dice.randrange(1, 17))
    return data[:at] + new + data[at + len(new) :]


def delete(dice: Random, data: bytes) -> bytes:
    """A slice."""
    begins, ends = _slice(dice, data)
    return data[:begins] + data[ends:]


def duplicate(dice: Random, data: bytes) -> bytes:
    """A slice, once more behind itself or elsewhere."""
    begins, ends = _slice(dice, data)
    at = ends if dice.random() < 0.5 else dice.randrange(len(data) + 1)
    return data[:at] + data[begins:ends] + data[at:]


def exchange(dice: Random, data: bytes) -> bytes:
    """Two slices."""
    a, b = sorted((dice.randrange(len(data) + 1), dice.randrange(len(data) + 1)))
    size = min(b - a, len(data) - b, dice.randrange(1, SLICE_BYTES_MAX))
    return data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]


def truncate(dice: Random, data: bytes) -> bytes:
    """The beginning, or the end."""
    at = dice.randrange(len(data) + 1)
    return data[:at] if dice.random() < 0.8 else data[at:]


def blow_up(dice: Random, data: bytes) -> bytes:
    """A slice, so often that the body is as large as a body may be, or a little larger."""
    begins, ends = _slice(dice, data)
    piece = data[begins:ends] or b"["
    size = dice.choice((8_192, 32_768, BODY_BYTES_MAX, BODY_BYTES_MAX, BODY_BYTES_MAX + 1))
    room = max(0, size - len(data))
    return data[:begins] + (piece * (room // len(piece) + 1))[:room] + data[begins:]


def _slice(dice: Random, data: bytes) -> tuple[int, int]:
    begins = dice.randrange(len(data) + 1)
    return begins, min(len(data), begins + dice.randrange(1, SLICE_BYTES_MAX))


EDITS: tuple[Edit, ...] = (flip_bits, flip_bits, insert, overwrite, delete, duplicate, exchange, truncate)


def any_edit(dice: Random, data: bytes) -> bytes:
    """One of the small ones."""
    return dice.choice(EDITS)(dice, data)


# --- the body ---------------------------------------------------------------------------------------------------------


def in_body(edit: Edit) -> Mutation:
    """That edit of the body."""

    def mutation(dice: Random, message: Message, others: Sequence[Message]) -> Message:
        return message._replace(body=edit(dice, message.body))

    return mutation


def several(dice: Random, message: Message, others: Sequence[Message]) -> Message:
    """A handful of edits of the body."""
    body = message.body
    for _ in range(dice.randrange(2, 12)):
        body = any_edit(dice, body)
    return message._replace(body=body)


def splice_bodies(dice: Random, message: Message, others: Sequence[Message]) -> Message:
    """This body's beginning and another's end."""
    other = dice.choice(others).body
    at = dice.randrange(min(len(message.body), len(other)) + 1)
    return message._replace(body=message.body[:at] + other[at:])


def body_of_another(dice: Random, message: Message, others: Sequence[Message]) -> Message:
    """These headers, another's body."""
    return message._replace(body=dice.choice(others).body)


def no_body(dice: Random, message: Message, others: Sequence[Message]) -> Message:
    """Nothing, or next to nothing."""
    return message._replace(body=dice.choice(NEXT_TO_NOTHING))


def charset(dice: Random, message: Message, others: Sequence[Message]) -> Message:
    """The body in another charset, as far as it goes."""
    text = message.body.decode("utf-8", "replace")
    return message._replace(body=text.encode(dice.choice(CHARSETS), "replace"))


# --- headers and path -------------------------------------------------------------------------------------------------

CONTENT_TYPES = (
    *(b"", b"text/plain", b"application/xml", b"multipart/form-data; boundary=x", b"application/json; charset=gbk"),
    *(b"application/x-www-form-urlencoded; charset=utf-7", b"application/octet-stream", b"*/*", b"a" * 2000),
)


def edit_header(dice: Random, message: Message, others: Sequence[Message]) -> Message:
    """A small edit of one value."""
    return _value(dice, message, lambda value: any_edit(dice, value))


def odd_header(dice: Random, message: Message, others: Sequence[Message]) -> Message:
    """A value that nobody expects."""
    return _value(
        dice,
        message,
        lambda value: dice.choice((*ODD_VALUES, b" " + value, value + b",", value + b"=", value * 2)),
    )


def drop_header(dice: Random, message: Message, others: Sequence[Message]) -> Message:
    """One or several are not there."""
    if dice.random() < 0.2:
        return message._replace(headers=tuple(each for each in message.headers if dice.random() < 0.5))
    at = _at(dice, message)
    return message._replace(headers=message.headers[:at] + message.headers[at + 1 :])


def double_header(dice: Random, message: Message, others: Sequence[Message]) -> Message:
    """One is there twice, with the same value or another message's."""
    name, value = message.headers[_at(dice, message)] if message.headers else (b"X", b"y")
    if dice.random() < 0.7:
        value = dict(dice.choice(others).headers).get(name, value + b"0")
    headers = list(message.headers)
    headers.insert(dice.randrange(len(headers) + 1), (name, value))
    return message._replace(headers=tuple(headers))


def rename_header(dice: Random, message: Message, others: Sequence[Message]) -> Message:
    """Another name for the same value; only another case is the same name."""
    headers = list(message.headers) or [(b"X", b"y")]
    at = dice.randrange(len(headers))
    name, value = headers[at]
    names = (name.lower(), name.upper(), b"X-" + name, name + b"s", name.replace(b"-", b"_"), name[:-1] or b"x")
    headers[at] = dice.choice(names), value
    return message._replace(headers=tuple(headers))


def exchange_headers(dice: Random, message: Message, others: Sequence[Message]) -> Message:
    """Two values change places."""
    headers = list(message.headers) or [(b"X", b"y")]
    a, b = dice.randrange(len(headers)), dice.randrange(len(headers))
    headers[a], headers[b] = (headers[a][0], headers[b][1]), (headers[b][0], headers[a][1])
    return message._replace(headers=tuple(headers))


def headers_of_another(dice: Random, message: Message, others: Sequence[Message]) -> Message:
    """This body, with all or some of another message's headers."""
    other = dict(dice.choice(others).headers)
    if dice.random() < 0.4:
        return message._replace(headers=tuple(other.items()))
    kept = tuple((name, other.get(name, value) if dice.random() < 0.5 else value) for name, value in message.headers)
    return message._replace(headers=kept)


def content_type(dice: Random, message: Message, others: Sequence[Message]) -> Message:
    """Said to be something else, and a bit of the body is."""
    headers = tuple(each for each in message.headers if each[0].lower() != b"content-type")
    body = message.body if dice.random() < 0.3 else any_edit(dice, message.body)
    return Message(message.path, (*headers, (b"Content-Type", dice.choice(CONTENT_TYPES))), body)


def path_of_another(dice: Random, message: Message, others: Sequence[Message]) -> Message:
    """A replay to the address of another order."""
    return message._replace(path=dice.choice(others).path)


def odd_path(dice: Random, message: Message, others: Sequence[Message]) -> Message:
    """An address that is nobody's, or another attempt's or channel's."""
    path, number = message.path[:-2], message.path[-2:]
    start, _, end = path.rpartition(b"/callbacks/")[2].partition(b"/")
    other = b"alipay" if start != b"alipay" else b"wechatpay"
    odd = (path + b"02", path + b"00", path + b"1", path + b"99", path, path.lower() + number, message.path + b"/")
    more = (b"/callbacks/" + other + b"/" + end + number, b"/callbacks/" + start + b"/%2e%2e/" + number, b"//" + path)
    return message._replace(path=dice.choice((*odd, *more)))


def _at(dice: Random, message: Message) -> int:
    return dice.randrange(max(1, len(message.headers)))


def _value(dice: Random, message: Message, change: Callable[[bytes], bytes]) -> Message:
    headers = list(message.headers) or [(b"X", b"y")]
    at = dice.randrange(len(headers))
    headers[at] = headers[at][0], change(headers[at][1])
    return message._replace(headers=tuple(headers))


def mutations(headers: int) -> tuple[tuple[int, str, Mutation], ...]:
    """All of them, with their weights and names; `headers` is how much those weigh that only change headers."""
    return (
        (12, "bits flipped", in_body(flip_bits)),
        (6, "bytes inserted", in_body(insert)),
        (4, "bytes overwritten", in_body(overwrite)),
        (4, "bytes deleted", in_body(delete)),
        (4, "bytes doubled", in_body(duplicate)),
        (3, "bytes exchanged", in_body(exchange)),
        (4, "truncated", in_body(truncate)),
        (1, "blown up", in_body(blow_up)),
        (4, "several edits", several),
        (4, "spliced", splice_bodies),
        (2, "body of another", body_of_another),
        (1, "no body", no_body),
        (2, "recoded", charset),
        (4, "content type", content_type),
        (4, "path of another", path_of_another),
        (2, "odd path", odd_path),
        (2 * headers, "header edited", edit_header),
        (headers, "header odd", odd_header),
        (headers, "header dropped", drop_header),
        (headers, "header doubled", double_header),
        (headers, "header renamed", rename_header),
        (headers, "headers exchanged", exchange_headers),
        (headers, "headers of another", headers_of_another),
    )
