"""The text of a flush's one statement, strung together from the sections of commit.sql that a batch needs."""

import itertools
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import msgspec

_SQL = Path(__file__).with_name("commit.sql")
_SECTION = re.compile(r"^-- section: (\w+)\n", re.MULTILINE)
_COLUMN = re.compile(r"\{(\w+):(\w+)\}")

# What a batch brings, and the sections that live on it.
DERIVED = {"births": ("births", "claimed", "born", "born_events"), "moves": ("moves", "moved", "moved_events")}
BEFORE_APPLIED = frozenset(itertools.chain.from_iterable(DERIVED.values()))


class Statement(msgspec.Struct, frozen=True):
    """One statement: its text, and for each section how many array parameters it takes, in order."""

    sql: str
    columns: dict[str, tuple[str, ...]]


@cache
def sections() -> dict[str, str]:
    """The sections of commit.sql by name, in the file's order."""
    parts = _SECTION.split(_SQL.read_text(encoding="utf-8"))
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


@cache
def columns(section: str) -> tuple[str, ...]:
    """The columns a section takes, each once, in order of first appearance."""
    return tuple(dict.fromkeys(name for name, _ in _COLUMN.findall(sections()[section])))


@cache
def statement(names: frozenset[str]) -> Statement:
    """The statement for a batch that has rows for `names`."""
    needed = set(names).union(*(DERIVED[name] for name in names & DERIVED.keys()))
    wanted = [name for name in sections() if name in needed]
    before = [name for name in wanted if name in BEFORE_APPLIED]
    numbered: dict[str, str] = {}
    first = 1
    for name in wanted:
        numbered[name] = f"{name} AS (\n{_numbered(name, first)}\n)"
        first += len(columns(name))
    ctes = [
        *(numbered[name] for name in before),
        _applied(before),
        *(numbered[name] for name in wanted if name not in BEFORE_APPLIED),
    ]
    sql = "WITH " + ",\n".join(ctes) + "\nSELECT order_id FROM applied"
    return Statement(sql, {name: columns(name) for name in wanted if columns(name)})


def _applied(wanted: Iterable[str]) -> str:
    sources = [f"SELECT order_id FROM {name}" for name in ("born", "moved") if name in wanted]  # noqa: S608
    return f"applied AS ({' UNION ALL '.join(sources) or 'SELECT NULL::text AS order_id WHERE false'})"


def _numbered(name: str, first: int) -> str:
    numbers = {column: first + index for index, column in enumerate(columns(name))}
    return _COLUMN.sub(lambda match: f"${numbers[match[1]]}::{match[2]}[]", sections()[name])
