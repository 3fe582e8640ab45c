"""Mutations of a JSON object: members are changed, dropped, doubled, renamed, nested, made huge."""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from typing import Any, TypeAlias

from bench.fuzz.bytewise import Mutation, any_edit
from bench.fuzz.message import BODY_BYTES_MAX, Message

Members: TypeAlias = list[tuple[str, Any]]

DEEP = (100, 1_000, 10_000, 30_000)
ODD: tuple[str, ...] = (
    *("null", "true", "[]", "{}", '""', "0", "-1", "1e999", "-1e-999", "1" * 400, "0." + "1" * 400, "NaN", "Infinity"),
    *(r'"\ud800"', r'"\udfff\ud800"', r'"\u0000"', '"\x7f"', r'"\/"', '"' + "A" * 5_000 + '"', '"＋"', '"\u202e"'),
)


def mutations() -> tuple[tuple[int, str, Mutation], ...]:
    """All of them, with their weights and names."""
    named: tuple[tuple[int, str, Callable[[Random, Members, Members], str]], ...] = (
        (6, "member edited", _edit),
        (5, "member odd", _odd),
        (3, "member dropped", _drop),
        (4, "member doubled", _double),
        (3, "member renamed", _rename),
        (4, "members of another", _take_over),
        (2, "written otherwise", _respell),
        (1, "nested deeply", _nest),
        (1, "huge member", _huge),
    )
    return tuple((weight, name, _on_members(change)) for weight, name, change in named)


def _on_members(change: Callable[[Random, Members, Members], str]) -> Mutation:
    def mutation(dice: Random, message: Message, others: Sequence[Message]) -> Message:
        text = change(dice, members_of(message.body), members_of(dice.choice(others).body))
        return message._replace(body=text.encode("utf-8", "replace"))

    return mutation


def members_of(body: bytes) -> Members:
    """Of an object, those inside its objects too, named by their path."""
    return list(_members_of(body))


@lru_cache(256)  # messages are mutated again and again
def _members_of(body: bytes) -> tuple[tuple[str, Any], ...]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = {}
    return tuple(_flat(value, "")) if isinstance(value, dict) and value else (("a", "b"),)


def _flat(value: dict[str, Any], start: str) -> Members:
    members: Members = []
    for name, inner in value.items():
        members += _flat(inner, f"{start}{name}.") if isinstance(inner, dict) else [(start + name, inner)]
    return members


def written(members: Sequence[tuple[str, Any]], raw: dict[int, str] | None = None, separator: str = ",") -> str:
    """The object again; `raw` is what stands for the members at these places as it is."""
    top: dict[str, list[str]] = {"": []}
    for place, (path, value) in enumerate(members):
        parent, _, name = path.rpartition(".")
        text = (raw or {}).get(place) or json.dumps(value)
        top.setdefault(parent, []).append(f"{json.dumps(name)}:{text}")
    inner = [f"{json.dumps(name)}:{{{separator.join(found)}}}" for name, found in top.items() if name]
    return "{" + separator.join([*top[""], *inner]) + "}"


def _edit(dice: Random, members: Members, other: Members) -> str:
    at = dice.randrange(len(members))
    path, value = members[at]
    members[at] = path, any_edit(dice, str(value).encode()).decode("utf-8", "replace")
    return written(members)


def _odd(dice: Random, members: Members, other: Members) -> str:
    return written(members, {dice.randrange(len(members)): dice.choice(ODD)})


def _drop(dice: Random, members: Members, other: Members) -> str:
    at = dice.randrange(len(members))
    return written(members[:at] + members[at + 1 :])


def _double(dice: Random, members: Members, other: Members) -> str:
    path, value = dice.choice(members)
    members.insert(dice.randrange(len(members) + 1), (path, dice.choice((value, dict(other).get(path), None))))
    return written(members)


def _rename(dice: Random, members: Members, other: Members) -> str:
    at = dice.randrange(len(members))
    path, value = members[at]
    members[at] = dice.choice((path.upper(), path + "_", path + "\0", " " + path, path[:-1])), value
    return written(members)


def _take_over(dice: Random, members: Members, other: Members) -> str:
    theirs = dict(other)
    return written([(path, theirs.get(path, value) if dice.random() < 0.5 else value) for path, value in members])


def _respell(dice: Random, members: Members, other: Members) -> str:
    """The same object in other bytes: where raw bytes are signed, it is a forgery."""
    if dice.random() < 0.5:
        dice.shuffle(members)
    return dice.choice(("", " ", "\ufeff")) + written(members, separator=dice.choice((",", ", ", " ,\n\t")))


def _nest(dice: Random, members: Members, other: Members) -> str:
    depth = dice.choice(DEEP)
    opening, closing = dice.choice((("[", "]"), ('{"a":', "}"), ("[", ""), ("[[{", "")))
    depth = min(depth, BODY_BYTES_MAX // (len(opening) + len(closing)) - 2_000)
    inner = opening * depth + ("1" if closing else "") + closing * depth
    return inner if dice.random() < 0.3 else written(members, {dice.randrange(len(members)): inner})


def _huge(dice: Random, members: Members, other: Members) -> str:
    room = BODY_BYTES_MAX - len(written(members)) - dice.choice((100, 100, 30_000))
    piece = dice.choice(("A", "9", r"\u0041", r"\ud800", "汉", r"\n"))
    text = piece * max(1, room // len(piece.encode()))
    return written(
        members, {dice.randrange(len(members)): text if piece == "9" and dice.random() < 0.5 else f'"{text}"'}
    )
