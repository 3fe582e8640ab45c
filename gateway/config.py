"""The configuration: one frozen value, read once from a TOML file and `HOLDFAST_SECTION__KEY` variables (which win).

All mistakes are reported together, each with its path. Times may have fractions. `X_file` names a file whose content
becomes `X`. Relative paths start at the configuration file's directory; without a file, at the checkout.
"""

import base64
import binascii
import tomllib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta
from msgspec.structs import FieldInfo

PREFIX: Final = "HOLDFAST_"
CHECKOUT: Final = Path(__file__).resolve().parent.parent
# The only addresses real money goes to. Anything else is a simulator, and production refuses it.
OFFICIAL_HOSTS: Final = {"wechatpay": frozenset({"api.mch.weixin.qq.com", "api2.mch.weixin.qq.com"})}

S = TypeVar("S", bound=msgspec.Struct)
Text = Annotated[str, Meta(min_length=1, max_length=256)]
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]
Ladder = Annotated[tuple[Seconds, ...], Meta(min_length=1, max_length=1000)]
Waits = Annotated[tuple[Annotated[float, Meta(ge=0, le=31_536_000)], ...], Meta(min_length=1, max_length=1000)]
Count = Annotated[int, Meta(ge=1, le=100_000_000)]


class ConfigError(Exception):
    """The configuration can not be used; `mistakes` holds all that is wrong with it, one line each."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(["the configuration has mistakes:", *(f"  {mistake}" for mistake in mistakes)]))
        self.mistakes = mistakes


class Secret(str):
    """A text that prints as stars."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'********'" if self else "''"


class Env(StrEnum):
    """Where this runs: `prod` refuses everything that is only good enough for development."""

    DEV = "dev"
    PROD = "prod"


class Server(msgspec.Struct, frozen=True):
    """Where we listen, and the address under which channels reach us."""

    host: Text = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    public_url: str = ""  # empty: made of host and port
    drain_s: Annotated[float, Meta(ge=0, le=3600)] = 10.0
    single_process: bool = False


class Database(msgspec.Struct, frozen=True):
    """PostgreSQL. `allow_unsafe` is for a test server that syncs nothing."""

    url: Secret = Secret("embedded")
    pool_max: Annotated[int, Meta(ge=2, le=1000)] = 8
    role: Annotated[str, Meta(pattern="^[a-z_][a-z0-9_]{0,62}$")] = "holdfast_gateway"
    allow_unsafe: bool = False


class Redis(msgspec.Struct, frozen=True):
    """The dedup hints. "off": run without, slower and with the same answers."""

    url: Secret = Secret("embedded")
    timeout_ms: Annotated[float, Meta(gt=0, le=10_000)] = 50.0


class Security(msgspec.Struct, frozen=True):
    """The key that seals secrets in the database: base64 of 32 bytes."""

    master_key: Secret = Secret("")
    master_key_file: Path | None = None


class Embedded(msgspec.Struct, frozen=True):
    """Where the embedded servers keep their files."""

    root: Path = Path("var")


class Limits(msgspec.Struct, frozen=True):
    """What one process takes at most."""

    actors_max: Count = 200_000
    backlog_rows_max: Count = 8192
    batch_rows_max: Annotated[int, Meta(ge=1, le=10_000)] = 256
    body_bytes_max: Annotated[int, Meta(ge=1024, le=16_777_216)] = 65536


class Orders(msgspec.Struct, frozen=True):
    """What an order gets when its app says nothing."""

    expires_in_s: Seconds = 1800.0
    duplicate_window_ms: Annotated[float, Meta(gt=0, le=3_600_000)] = 5000.0


class Checks(msgspec.Struct, frozen=True):
    """When a channel is asked about an order that it said nothing about."""

    timeout_s: Seconds = 30.0  # this long after the payment was started it is overdue
    queries_s: Ladder = (10.0, 20.0, 30.0)
    slow_queries_s: Ladder = (60.0, 180.0, 300.0, 600.0, 1800.0)  # the payer takes his time; the last one repeats
    closing_s: Ladder = (5.0, 10.0, 20.0, 30.0, 60.0, 180.0, 300.0, 600.0)
    watch_s: Ladder = (60.0, 600.0, 3600.0, 21600.0)  # after closed: money may still arrive
    exception_s: Ladder = (3600.0,) * 24 + (21600.0,) * 24  # hourly for a day, then 6-hourly to 7 days
    not_found_final_s: Seconds = 600.0
    pay_wait_s: Seconds = 8.0


class Sweep(msgspec.Struct, frozen=True):
    """The scan that finds due orders whatever the actors believe."""

    every_s: Seconds = 1.0
    grace_s: Annotated[float, Meta(ge=0, le=3600)] = 2.0
    page_rows: Annotated[int, Meta(ge=1, le=10_000)] = 200
    lease_s: Seconds = 30.0


class Webhooks(msgspec.Struct, frozen=True):
    """How an app is told: the wait before each try, then the letter is dead."""

    schedule_s: Waits = (
        *(0.0, 15.0, 15.0, 30.0, 180.0, 600.0, 1200.0, 1800.0, 1800.0, 1800.0),
        *(3600.0, 10800.0, 10800.0, 10800.0, 21600.0, 21600.0, 86400.0, 86400.0, 86400.0),
    )
    timeout_s: Seconds = 15.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.2
    per_endpoint: Annotated[int, Meta(ge=1, le=10_000)] = 16


class WechatPay(msgspec.Struct, frozen=True):
    """Our merchant account at WeChat Pay."""

    appid: Text
    mchid: Text
    merchant_serial: Text
    base_url: Text = "https://api.mch.weixin.qq.com"
    private_key: Secret = Secret("")
    private_key_file: Path | None = None
    api_v3_key: Secret = Secret("")
    api_v3_key_file: Path | None = None
    public_key_id: str = ""
    public_key: str = ""
    public_key_file: Path | None = None
    platform_certificates: tuple[Path, ...] = ()
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5.0
    concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 64


class Channels(msgspec.Struct, frozen=True):
    """The installed channels: one whose section is absent is not."""

    wechatpay: WechatPay | None = None


class Config(msgspec.Struct, frozen=True):
    """All of it."""

    env: Env = Env.DEV
    server: Server = Server()
    database: Database = Database()
    redis: Redis = Redis()
    security: Security = Security()
    embedded: Embedded = Embedded()
    limits: Limits = Limits()
    orders: Orders = Orders()
    checks: Checks = Checks()
    sweep: Sweep = Sweep()
    webhooks: Webhooks = Webhooks()
    channels: Channels = Channels()


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
    for broken in (*_broken_rules(config), *_refused_in_prod(config)):
        name = broken.partition(":")[0]
        if not any(name.startswith(path) or path.startswith(name) for path in wrong):
            mistakes.append(broken)
    if mistakes:
        raise ConfigError(mistakes)
    return _with_public_url(config)


# --- reading --------------------------------------------------------------------------------------------------------


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
        self._read_files(values, path)
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

    def _read_files(self, values: dict[str, Any], path: tuple[str, ...]) -> None:
        for name in [name for name, value in values.items() if name.endswith("_file") and value]:
            target = name.removesuffix("_file")
            if values.get(target):
                self.mistakes.append(f"{'.'.join((*path, name))}: {target} is set as well; one of the two")
            values[target] = Secret(self._content(values[name], f"{'.'.join((*path, name))}"))
        for number, file in enumerate(values.get("platform_certificates", ())):
            self._content(file, f"{'.'.join((*path, 'platform_certificates'))}[{number}]")

    def _content(self, file: Path, name: str) -> str:
        try:
            return file.read_text("utf-8").strip()
        except OSError as error:
            self.mistakes.append(f"{name}: can't read {file}: {error.strerror}")
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


def _from_text(text: str, kind: Any) -> Any:
    """A variable's value: lists are written as JSON. What is not JSON stays text and fails as such."""
    sequence = any(str(choice).startswith("tuple[") for choice in (kind, *get_args(kind)))
    if not sequence:
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


# --- rules between fields -------------------------------------------------------------------------------------------


def _broken_rules(config: Config) -> Iterator[str]:
    if config.database.url != "embedded" and not config.database.url.startswith(("postgresql://", "postgres://")):
        yield 'database.url: Expected "embedded" or postgresql://...'
    schemes = ("redis://", "rediss://", "unix://")
    if config.redis.url not in {"embedded", "off"} and not config.redis.url.startswith(schemes):
        yield 'redis.url: Expected "embedded", "off", redis://, rediss:// or unix://...'
    if config.server.public_url and (wrong := _wrong_url(config.server.public_url)):
        yield f"server.public_url: {wrong}"
    if config.security.master_key and _base64_bytes(config.security.master_key) != 32:
        yield "security.master_key: Expected base64 of 32 bytes"
    if config.limits.batch_rows_max > config.limits.backlog_rows_max:
        yield "limits.batch_rows_max: must not exceed limits.backlog_rows_max"
    if config.channels.wechatpay:
        yield from _broken_wechatpay_rules(config.channels.wechatpay, config.sweep)


def _broken_wechatpay_rules(channel: WechatPay, sweep: Sweep) -> Iterator[str]:
    if wrong := _wrong_url(channel.base_url):
        yield f"channels.wechatpay.base_url: {wrong}"
    if not channel.private_key:
        yield "channels.wechatpay.private_key_file: required"
    if len(channel.api_v3_key.encode()) != 32:
        yield "channels.wechatpay.api_v3_key: Expected 32 bytes (in api_v3_key or the file api_v3_key_file)"
    if bool(channel.public_key) != bool(channel.public_key_id):
        yield "channels.wechatpay.public_key_id: belongs together with public_key_file"
    if sweep.lease_s <= channel.timeout_s:
        yield "sweep.lease_s: must exceed channels.wechatpay.timeout_s, else two processes ask at once"


def _refused_in_prod(config: Config) -> Iterator[str]:
    if config.env is not Env.PROD:
        return
    for name, url in (("database.url", config.database.url), ("redis.url", config.redis.url)):
        if url == "embedded":
            yield f'{name}: env = "prod" refuses the embedded server'
    if config.database.allow_unsafe:
        yield 'database.allow_unsafe: env = "prod" refuses a database that may forget'
    if not config.security.master_key:
        yield 'security.master_key_file: required when env = "prod"'
    if not config.server.public_url.startswith("https://"):
        yield 'server.public_url: env = "prod" wants https://'
    if channel := config.channels.wechatpay:
        address = urlsplit(channel.base_url)
        if address.scheme != "https" or address.netloc not in OFFICIAL_HOSTS["wechatpay"]:
            hosts = " or ".join(sorted(OFFICIAL_HOSTS["wechatpay"]))
            yield f'channels.wechatpay.base_url: env = "prod" wants https:// and {hosts}, not a simulator'


def _wrong_url(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if not fine:
        return "Expected http://HOST or https://HOST"
    if parts.query or parts.fragment or url.endswith("/"):
        return "must have no query, no fragment and no / at its end"
    return None


def _base64_bytes(text: str) -> int:
    try:
        return len(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return 0


def _with_public_url(config: Config) -> Config:
    if config.server.public_url:
        return config
    host = f"[{config.server.host}]" if ":" in config.server.host else config.server.host
    server = msgspec.structs.replace(config.server, public_url=f"http://{host}:{config.server.port}")
    return msgspec.structs.replace(config, server=server)
