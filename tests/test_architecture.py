"""Who may import whom, what the pure files stay away from, and how long a file gets.

The tables are the specification. An exception is one line with its reason.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINES_MAX = 600

# package -> what it may import besides the standard library and itself
MAY_IMPORT = {
    "actors": {"msgspec"},
    "channels": {"msgspec", "cryptography"},
    "gateway": {
        *("actors", "channels", "msgspec", "cryptography", "aiohttp", "asyncpg", "redis", "orjson", "structlog"),
        *("click", "prometheus_client", "segno", "uvloop", "yarl"),
    },
    "holdfast_client": {"aiohttp", "msgspec"},
    "examples": {"aiohttp", "msgspec", "holdfast_client"},
    "bench": {
        *("actors", "channels", "gateway", "holdfast_client", "msgspec", "aiohttp", "asyncpg", "orjson", "rich"),
        *("redis", "uvloop", "cryptography"),
    },
}

# Inside the gateway: a file imports from lower floors and from its own part, never up and never sideways.
FLOORS = [
    {
        *("config", "errors", "metrics", "logs", "sealing", "probe", "addresses", "representation", "embedded"),
        *("ids", "clock", "pacing", "stepping"),
    },
    {"storage", "transport", "dedup"},
    {"effect_runner", "databases"},
    {"channel_keys", "checks", "inbox", "installation", "unanswered"},
    {"api", "console", "webhooks", "reconciliation", "desk"},
    {"app", "casebook", "doctor", "replay"},
    {"cli"},
    {"__main__"},
]

# The two worlds meet in the gateway only here.
KNOW_ACTORS_AND_CHANNELS = {
    "gateway/effect_runner.py": "translates: an actor's effect becomes a channel's flow, its outcome an event",
    "gateway/app.py": "builds every part",
    "gateway/inbox.py": "has kept notifications verified once more, and tells orders what they say",
    "gateway/api/callbacks.py": "has a channel verify a notification, and tells the order what it says",
}

# (file, what it imports) -> why that is right all the same
EXCEPTIONS = {
    ("channels/simulator/server.py", "aiohttp"): "the simulator is the other side of the wire, a process with a server",
    ("channels/simulator/delivery.py", "aiohttp"): "the simulator sends notifications over real HTTP",
    ("channels/simulator/steering.py", "aiohttp"): "the simulator is steered over HTTP",
    ("channels/simulator/cashier.py", "aiohttp"): "the page on which a person pays is served",
    ("channels/simulator/cashier.py", "segno"): "the page on which a person pays shows the QR code",
    ("channels/simulator/__main__.py", "uvloop"): "a process of its own runs on the same loop as the gateway",
    ("sdk/examples/shop/__main__.py", "uvloop"): "the same; the client library itself does without",
    ("sdk/examples/shop/browser.py", "yarl"): "a signed address goes out as it is; aiohttp would quote it anew",
    ("bench/demo/control.py", "examples"): "the control arm has the shop's customers, so that both arms sell the same",
    ("bench/demo/control.py", "yarl"): "what a channel signed goes out as it is; aiohttp would quote it anew",
}

IMPURE_MODULES = {
    *("asyncio", "concurrent", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "signal"),
    *("socket", "sqlite3", "structlog", "subprocess", "sys", "tempfile", "threading", "time", "uuid"),
}
IMPURE_METHODS = {"now", "utcnow", "today"}
IMPURE_FUNCTIONS = {"open", "print", "input"}


def sources(*tops: str, deep: bool = True) -> list[str]:
    pattern = "**/*.py" if deep else "*.py"
    return [str(path.relative_to(ROOT)) for top in tops for path in sorted((ROOT / top).glob(pattern))]


# These decide; whatever they need to know is told to them.
PURE_FILES = [
    *(f"actors/{name}.py" for name in ("order", "events", "effects", "deadlines", "checkpoint", "diagram")),
    *(f"actors/{name}.py" for name in ("lifecycle", "crediting", "refunding", "casework", "ending")),
    *sources("channels", deep=False),
    *("gateway/webhooks/schedule.py", "gateway/reconciliation/matching.py"),
]


def imports(source: str) -> Iterator[str]:
    """Full names of all that is imported, wherever it stands in the file; `from a import b` counts as a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the package in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def foreign(source: str, package: str) -> set[str]:
    """Top-level names imported that `package` may not know."""
    tops = {name.partition(".")[0] for name in imports(source)}
    return tops - sys.stdlib_module_names - MAY_IMPORT[package] - {package}


def floor(part: str) -> int:
    places = [number for number, parts in enumerate(FLOORS) if part in parts]
    assert places, f"gateway/{part} has no place in FLOORS"
    return places[0]


def misplaced(source: str, part: str) -> set[str]:
    """Parts of the gateway that `part` imports although they stand above or beside it."""
    names = [name.split(".") for name in imports(source) if name.startswith("gateway.")]
    return {name[1] for name in names if name[1] != part and floor(name[1]) >= max(floor(part), 1)}


def impurities(source: str) -> set[str]:
    found = {name.partition(".")[0] for name in imports(source)} & IMPURE_MODULES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            method, function = getattr(node.func, "attr", ""), getattr(node.func, "id", "")
            found |= {f"{name}()" for name in {method} & IMPURE_METHODS | {function} & IMPURE_FUNCTIONS}
    return found


@pytest.mark.parametrize("path", sources("actors", "channels", "gateway", "sdk", "bench"))
def test_a_package_imports_only_what_its_line_in_the_table_allows(path: str) -> None:
    package = path.removeprefix("sdk/").partition("/")[0]
    excepted = {name for file, name in EXCEPTIONS if file == path}
    assert foreign((ROOT / path).read_text(), package) - excepted == set()


@pytest.mark.parametrize("path", [path for path in sources("gateway") if path != "gateway/__init__.py"])
def test_the_gateway_imports_downwards_only(path: str) -> None:
    part = path.split("/")[1].removesuffix(".py")
    excepted = {name.split(".")[1] for file, name in EXCEPTIONS if file == path and name.startswith("gateway.")}
    assert misplaced((ROOT / path).read_text(), part) - excepted == set()


def test_actors_and_channels_meet_only_where_the_table_says() -> None:
    def knows_both(path: str) -> bool:
        return {"actors", "channels"} <= {name.partition(".")[0] for name in imports((ROOT / path).read_text())}

    assert {path for path in sources("gateway") if knows_both(path)} <= KNOW_ACTORS_AND_CHANNELS.keys()


@pytest.mark.parametrize("path", sources("gateway/config"))
def test_the_configuration_needs_nothing_but_msgspec(path: str) -> None:
    names = {name for name in imports((ROOT / path).read_text()) if not name.startswith("gateway.config.")}
    assert {name.partition(".")[0] for name in names} - sys.stdlib_module_names <= {"msgspec"}


@pytest.mark.parametrize("path", [path for path in PURE_FILES if (ROOT / path).exists()])
def test_a_pure_file_has_no_clock_no_chance_and_no_world(path: str) -> None:
    excepted = {name for file, name in EXCEPTIONS if file == path}
    assert impurities((ROOT / path).read_text()) - excepted == set()


@pytest.mark.parametrize("path", [*sources("actors", "channels", "gateway", "sdk", "bench", "tests"), "run"])
def test_no_file_is_longer_than_a_person_reads(path: str) -> None:
    assert len((ROOT / path).read_text().splitlines()) <= LINES_MAX


def test_every_exception_is_still_needed() -> None:
    stale = [
        (file, name)
        for file, name in EXCEPTIONS
        if (ROOT / file).exists()
        and not any(full == name or full.startswith(f"{name}.") for full in imports((ROOT / file).read_text()))
    ]
    assert stale == []


def test_the_checks_see_what_they_forbid() -> None:
    assert foreign("def f():\n    from aiohttp import web", "actors") == {"aiohttp"}
    assert misplaced("from gateway.api import orders", "storage") == {"api"}
    assert misplaced("from gateway.transport import Transport", "storage") == {"transport"}
    assert misplaced("from gateway import config, metrics", "storage") == set()
    assert impurities("import time\nx = datetime.now(UTC)\nopen('f')") == {"time", "now()", "open()"}
    assert impurities("import zipfile\nzipfile.ZipFile(io.BytesIO(content)).open('row')") == set()
