"""The named queries of queries.sql."""

import re
from functools import cache
from pathlib import Path

_NAME = re.compile(r"^-- query: (\w+)\n", re.MULTILINE)


@cache
def _queries() -> dict[str, str]:
    parts = _NAME.split(Path(__file__).with_name("queries.sql").read_text(encoding="utf-8"))
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


def query(name: str) -> str:
    """The text of a named query."""
    return _queries()[name]
