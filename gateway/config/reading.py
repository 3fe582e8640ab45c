"""Reads the configuration: a TOML file and `HOLDFAST_SECTION__KEY` variables (which win); all mistakes come together.

Relative paths start at the configuration file's directory; without a file, at the checkout.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo

from gateway.config.rules import broken_rules, with_public_url
from gateway.config.sections import Config, Secret

PREFIX: Final = "HOLDFAST_"
CHECKOUT: Final = Path(__file__).resolve().parents[2]

S = TypeVar("S", bound=msgspec.Struct)


class ConfigError(Exception):
    """The configuration can not be used; `mistakes` holds all that is wrong with it, one line each."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(["the configuration has mistakes:", *(f"  {mistake}" for mistake in mistakes)]))
        self.mistakes = mistakes


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read the file, if any, and the variables.

    Raises:
        ConfigError: with every mistake that was found.
    """
    reader = _Reader(path.absolute().parent if path else CHECKOUT, environ)
    config = reader.read(Config, _parse(path) if path else {}, ())
    mistakes = reader.mistakes + reader.unknown_variables()
    # A field that is wrong by itself stands there with its default: what the rules say of that is no news.
    wrong = [mistake.partition(":")[0] for mistake in mistakes]
    for broken in broken_rules(config):
        name = broken.partition(":")[0]
        if not any(name.startswith(path) or path.startswith(name) for path in wrong):
            mistakes.append(broken)
    if mistakes:
        raise ConfigError(mistakes)
    return with_public_url(config)


class _Reader:
    """Turns raw tables into structs field by field, so that one mistake does not hide the next."""

    def __init__(self, anchor: Path, environ: Mapping[str, str]) -> None:
        self.mistakes: list[str] = []
        self._anchor = anchor
        self._unread = {
            tuple(name.removeprefix(PREFIX).lower().split("__")): value
            for name, value in environ.items()
            if name.startswith(PREFIX) and ("__" in name or name == f"{PREFIX}ENV")
        }

    def unknown_variables(self) -> list[str]:
        return [f"{PREFIX}{'__'.join(key).upper()}: no such setting" for key in sorted(self._unread)]

    def read(self, kind: type[S], table: Any, path: tuple[str, ...]) -> S:
        fields = msgspec.structs.fields(kind)
        # A required field stays empty only beside a mistake, and then nobody gets this struct.
        values: dict[str, Any] = dict.fromkeys((field.name for field in fields if field.required), "")
        if not isinstance(table, dict):
            self.mistakes.append(f"{'.'.join(path)}: Expected a table, got `{type(table).__name__}`")
            return kind(**values)
        known = {field.name for field in fields}
        self.mistakes += [f"{'.'.join((*path, key))}: no such setting" for key in table if key not in known]
        found = {field.name: self._field(field, table, (*path, field.name)) for field in fields}
        values |= {name: value for name, value in found.items() if value is not msgspec.UNSET}
        self._read_files(values, path, known)
        return kind(**values)

    def _field(self, field: FieldInfo, table: dict[str, Any], path: tuple[str, ...]) -> Any:
        if section := _struct_of(field.type):
            absent = field.name not in table and not any(key[: len(path)] == path for key in self._unread)
            optional = section is not field.type
            return None if absent and optional else self.read(section, table.get(field.name, {}), path)
        if path in self._unread:
            return self._convert(_from_text(self._unread.pop(path), field.type), field.type, path, strict=False)
        if field.name in table:
            return self._convert(table[field.name], field.type, path, strict=True)
        if field.required:
            self.mistakes.append(f"{'.'.join(path)}: required")
        elif isinstance(field.default, Path):
            return self._anchor / field.default
        return msgspec.UNSET

    def _convert(self, value: Any, kind: Any, path: tuple[str, ...], *, strict: bool) -> Any:
        try:
            return msgspec.convert(value, kind, strict=strict, dec_hook=self._decode)
        except msgspec.ValidationError as error:
            what, _, where = str(error).partition(" - at `$")
            self.mistakes.append(f"{'.'.join(path)}{where.rstrip('`')}: {what}")
            return msgspec.UNSET

    def _decode(self, kind: type, value: Any) -> Any:
        if not isinstance(value, str):
            raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
        return self._anchor / value if kind is Path else kind(value)

    def _read_files(self, values: dict[str, Any], path: tuple[str, ...], known: set[str]) -> None:
        for name, value in list(values.items()):
            where = ".".join((*path, name))
            target = name.removesuffix("_file")
            if isinstance(value, tuple):
                for number, file in enumerate(value):
                    if isinstance(file, Path):
                        self._content(file, f"{where}[{number}]")
            elif target != name and isinstance(value, Path):
                content = self._content(value, where)
                if target in known:
                    if values.get(target):
                        self.mistakes.append(f"{where}: {target} is set as well; one of the two")
                    values[target] = Secret(self._text(content, value, where))

    def _content(self, file: Path, name: str) -> bytes:
        try:
            return file.read_bytes()
        except OSError as error:
            self.mistakes.append(f"{name}: can't read {file}: {error.strerror}")
        return b""

    def _text(self, content: bytes, file: Path, name: str) -> str:
        try:
            return content.decode().strip()
        except UnicodeDecodeError:
            self.mistakes.append(f"{name}: {file} is not a text")
        return ""


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror}"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: not TOML: {error}"]) from None


def _struct_of(kind: Any) -> type[msgspec.Struct] | None:
    """The struct that a field holds, directly or as `X | None`."""
    for choice in (kind, *get_args(kind)):
        if isinstance(choice, type) and issubclass(choice, msgspec.Struct):
            return choice
    return None


def _is_sequence(kind: Any) -> bool:
    """Whether it is a tuple, annotated or not, directly or as `X | None`."""
    return get_origin(kind) is tuple or any(_is_sequence(choice) for choice in get_args(kind) if get_args(choice))


def _from_text(text: str, kind: Any) -> Any:
    """A variable's value: lists are written as JSON. What is not JSON stays text and fails as such."""
    if not _is_sequence(kind):
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
