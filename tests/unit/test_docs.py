"""The pages in docs/ name tests, code, settings and faults: each of them must be there, or the page has rotted.

What can be named: `a/file.py`, `a/file.py::name` (a function, class, method or constant of it), `section.key = value`
(a setting and its default), `chaos:name` (a fault of ./run chaos). The races name tests in their docstrings.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from gateway.config import Config

ROOT = Path(__file__).parents[2]
PAGES = sorted(ROOT.glob("docs/**/*.md"))
NAMED = re.compile(r"((?:[\w.-]+/)+[\w.-]+\.(?:py|sql|md))(?:::(\w+(?:\.\w+)*))?")
SETTING = re.compile(r"`((?:\w+\.)+\w+) = ([^`]+)`")
CHAOS = re.compile(r"`chaos:(\w+)`")
ROWS = re.compile(r"^\| (?!fault|recipe|-)(.*) \|$", re.MULTILINE)


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def defines(path: Path, name: str) -> bool:
    """Whether this file defines it; of `Class.method` both."""
    text = text_of(path)
    return all(
        re.search(rf"^\s*(?:async def|def|class) {part}\b|^{part}\b[^\n]*=", text, re.MULTILINE)
        for part in name.split(".")
    )


def missing(text: str) -> list[str]:
    """What it names and is not there."""
    return [
        match[0]
        for match in NAMED.finditer(text)
        if not (ROOT / match[1]).is_file() or (match[2] and not defines(ROOT / match[1], match[2]))
    ]


def default_of(setting: str) -> Any:
    """The default, as JSON has it. A channel's section is one of several types that have what every channel has."""
    shape: Any = Config
    for name in setting.split("."):
        field = {field.name: field for field in msgspec.structs.fields(shape)}[name]
        options = [option for option in get_args(field.type) if option is not type(None)]
        shape = options[0] if options and field.default is None else field.type
    if field.default is msgspec.NODEFAULT:
        return msgspec.to_builtins(field.default_factory())
    return json.loads(json.dumps(field.default, default=msgspec.to_builtins))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    assert missing(text_of(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_setting_has_the_default_that_a_page_says(page: Path) -> None:
    said = {match[1]: match[2] for match in SETTING.finditer(text_of(page))}
    wrong = {name: default_of(name) for name, value in said.items() if json.loads(value) != default_of(name)}
    assert wrong == {}


def test_the_races_name_tests_that_there_are() -> None:
    races = text_of(ROOT / "tests/unit/test_races.py")
    assert len(NAMED.findall(races)) >= 9
    assert missing(races) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_fault_of_chaos_that_a_page_names_is_dealt(page: Path) -> None:
    dealt = set(re.findall(r'Kind\("(\w+)"', text_of(ROOT / "bench/chaos/timeline.py")))
    assert set(CHAOS.findall(text_of(page))) - dealt == set()


def test_every_fault_has_a_place_where_it_is_shown_or_says_why_not() -> None:
    rows = ROWS.findall(text_of(ROOT / "docs/failure-matrix.md"))
    assert len(rows) == 41
    assert [row for row in rows if not (NAMED.search(row) or "not injected" in row)] == []


def test_every_line_of_the_recipe_shows_its_setting_its_code_and_its_test() -> None:
    rows = ROWS.findall(text_of(ROOT / "docs/recipe.md"))
    assert [row.partition(" ")[0] for row in rows] == [f"R{number}" for number in range(1, 10)]
    for row in rows:
        _, _, setting, code, shown = row.split(" | ")
        assert SETTING.search(setting), row
        assert NAMED.search(code), row
        assert "tests/" in shown, row


def test_the_checker_finds_what_is_not_there() -> None:
    made_up = (
        "`gateway/app.py::Gateway` `gateway/app.py::NoSuch` `tests/unit/test_gone.py` `gateway/app.py::Gateway.stop`"
    )
    assert missing(made_up) == ["gateway/app.py::NoSuch", "tests/unit/test_gone.py"]
    assert default_of("checks.queries_s") == [10.0, 20.0, 30.0]
    assert default_of("channels.wechatpay.timeout_s") == 5
