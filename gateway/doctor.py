"""Diagnoses an installation without serving: all that is wrong, or soon will be, with its path and its date.

It changes nothing and asks no channel for anything; it starts no embedded database.
"""

import asyncio
import errno
import re
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import msgspec
from aiohttp import http_parser
from cryptography import x509

from channels import signing
from channels.errors import KeyMaterialError
from channels.signing import DatedFile
from gateway.clock import SKEW_ALARM_MS, DatabaseClock
from gateway.config import ChannelSection, Config, ConfigError, Env, load
from gateway.dedup import Dedup
from gateway.installation import EXPIRES_SOON_S, each_certificate, load_channel
from gateway.metrics import Metrics
from gateway.storage.migrate import MigrationError, UnsafeDatabaseError, check_durability, pending, read_migrations

REACH_S: Final = 2.0
CONNECT_S: Final = 5.0
SKEW_WARN_MS: Final = 1000  # below it, a clock that nobody sets right is not told from the network
FILES_WANTED: Final = 4096  # each connection of an app, a channel, a webhook or a database is an open file
CONNECTIONS_BESIDE: Final = 4  # of the group commit, and of a migration, beside the pool's
OPEN_TO_OTHERS: Final = 0o004
SECRET_FILES: Final = ("private_key_file", "pfx_file", "pfx_password_file", "api_v3_key_file", "master_key_file")


class Verdict(StrEnum):
    """FAIL: the gateway does not start, or not as it must. WARN: it works, and somebody should look."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True):
    """One line: what was looked at (a setting, a path, an address) and what was found."""

    verdict: Verdict
    part: str
    subject: str
    detail: str


async def diagnose(path: Path | None, environ: Mapping[str, str]) -> list[Finding]:
    """Look at everything. What can not be looked at is a finding, too."""
    try:
        config = load(path, environ)
    except ConfigError as error:
        mistakes = [mistake.partition(": ") for mistake in error.mistakes]
        return [*(Finding(Verdict.FAIL, "configuration", name, why) for name, _, why in mistakes), *_process()]
    sections = config.channels.installed()
    reached = await asyncio.gather(_postgres(config), _redis(config), *map(_hosts, sections, sections.values()))
    findings = [
        Finding(Verdict.OK, "configuration", str(path or "the defaults"), f'env = "{config.env}", no mistakes'),
        *_exposed("security", config.security),
        *_process(),
        *_address(config),
        *(finding for name, section in sections.items() for finding in _keys(name, section, int(time.time()))),
        *(finding for part in reached for finding in part),
    ]
    if not sections:
        findings.append(Finding(Verdict.WARN, "channels", "none installed", "orders can be made, and none be paid"))
    return findings


def as_text(findings: list[Finding]) -> str:
    """Aligned lines, the verdict first."""
    columns = [(each.verdict, each.part, each.subject) for each in findings]
    widths = [max(len(row[column]) for row in columns) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=True)), each.detail]).rstrip()
        for row, each in zip(columns, findings, strict=True)
    )


def is_sound(findings: list[Finding]) -> bool:
    """Whether the gateway can start; there may be warnings."""
    return all(each.verdict is not Verdict.FAIL for each in findings)


# --- this process and its address -----------------------------------------------------------------------------------


def _process() -> Iterator[Finding]:
    fast = http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy
    verdict, which = (Verdict.OK, "in C") if fast else (Verdict.WARN, "in Python: aiohttp was built without its own")
    yield Finding(verdict, "process", "HTTP parser", which)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    enough = files == resource.RLIM_INFINITY or files >= FILES_WANTED
    verdict = Verdict.OK if enough else Verdict.WARN
    yield Finding(verdict, "process", "open files", f"at most {files}" + ("" if enough else f"; want {FILES_WANTED}"))


def _address(config: Config) -> Iterator[Finding]:
    yield _port(config.server.host, config.server.port)
    url = config.server.public_url
    doubt = _unreachable(url)
    if doubt is None:
        yield Finding(Verdict.OK, "server", url, "where channels reach us")
    elif config.env is Env.PROD:
        yield Finding(Verdict.WARN, "server", url, f"{doubt}: no channel can notify us, payments are found by asking")
    else:
        yield Finding(Verdict.OK, "server", url, f"{doubt}: good for a simulator on this machine")


def _port(host: str, port: int) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    where = f"{host}:{port}"
    try:
        with socket.create_server((host, port), family=family):
            return Finding(Verdict.OK, "server", where, "free to listen at")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return Finding(Verdict.WARN, "server", where, "in use: by a gateway that runs, or by something else")
        return Finding(Verdict.FAIL, "server", where, f"we can't listen there: {error.strerror or error}")


def _unreachable(url: str) -> str | None:
    """Why a platform on the internet will hardly reach this address; None if it looks as if it could."""
    host = urlsplit(url).hostname or ""
    try:
        private = not ip_address(host).is_global
    except ValueError:
        private = "." not in host or host.endswith((".local", ".localhost", ".internal"))
    return "not an address of the internet" if private else None


# --- keys -----------------------------------------------------------------------------------------------------------


def _keys(name: str, section: ChannelSection, now_s: int) -> Iterator[Finding]:
    """Every file of a channel's keys; if they can not be loaded, why, and what is wrong with the others beside it."""
    part = f"channels.{name}"
    try:
        files = load_channel(name, section, now_s).files
    except KeyMaterialError as error:
        subject, _, why = str(error).removeprefix(f"{part}: ").partition(": ")
        yield Finding(Verdict.FAIL, part, subject, why)
        for path in _files(section):
            for where, content in each_certificate(path).items():
                if where != subject:
                    yield from _alone(part, where, content, now_s)
    else:
        yield from (_dated(part, file, now_s) for file in files)
    yield from _exposed(part, section)


def _files(section: ChannelSection) -> Iterator[Path]:
    for value in msgspec.structs.asdict(section).values():
        yield from (path for path in (value if isinstance(value, tuple) else (value,)) if isinstance(path, Path))


def _alone(part: str, where: str, content: bytes, now_s: int) -> Iterator[Finding]:
    """What can be said of a file without knowing what it belongs to; of a secret or a `.pfx`, nothing."""
    try:
        if b"-----BEGIN CERTIFICATE-----" in content:
            read = x509.load_pem_x509_certificate(content)
            dates = (int(read.not_valid_before_utc.timestamp()), int(read.not_valid_after_utc.timestamp()))
            found = _dated(part, DatedFile(where, "a certificate", *dates), now_s)
            over = not dates[0] <= now_s <= dates[1]
            yield msgspec.structs.replace(found, verdict=Verdict.FAIL) if over else found
        elif b"PRIVATE KEY-----" in content:
            signing.load_private_key(content, where)
            yield Finding(Verdict.OK, part, where, "a private key")
        elif b"PUBLIC KEY-----" in content:
            signing.load_public_key(content, where)
            yield Finding(Verdict.OK, part, where, "a public key")
    except KeyMaterialError as error:
        yield Finding(Verdict.FAIL, part, where, str(error).removeprefix(f"{where}: "))
    except ValueError:
        yield Finding(Verdict.FAIL, part, where, "not a certificate in PEM form")


def _dated(part: str, file: DatedFile, now_s: int) -> Finding:
    if file.not_before_s is None or file.not_after_s is None:
        return Finding(Verdict.OK, part, file.where, file.what)
    valid = f"{file.what}, valid from {_date(file.not_before_s)} until {_date(file.not_after_s)}"
    left_s = file.not_after_s - now_s
    if now_s < file.not_before_s:
        return Finding(Verdict.WARN, part, file.where, f"{valid}: not yet")
    if left_s < 0:
        return Finding(Verdict.WARN, part, file.where, f"{valid}: expired")
    if left_s < EXPIRES_SOON_S:
        return Finding(Verdict.WARN, part, file.where, f"{valid}: {left_s // 86_400} days left")
    return Finding(Verdict.OK, part, file.where, valid)


def _date(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d")


def _exposed(part: str, section: msgspec.Struct) -> Iterator[Finding]:
    """Files with secrets in them that every user of this machine can read."""
    for name in SECRET_FILES:
        path = getattr(section, name, None)
        if isinstance(path, Path) and path.stat().st_mode & OPEN_TO_OTHERS:
            yield Finding(Verdict.WARN, part, str(path), f"{name}: everybody on this machine can read it; chmod o-r")


# --- what is reached over the network -------------------------------------------------------------------------------


async def _hosts(name: str, section: ChannelSection) -> list[Finding]:
    """Whether anybody listens where the channel is; not whether it is the channel, and nothing is asked of it."""
    addresses = {value: None for key, value in msgspec.structs.asdict(section).items() if key.endswith("_url")}
    return [await _host(f"channels.{name}", address) for address in addresses]


async def _host(part: str, address: str) -> Finding:
    url = urlsplit(address)
    began_s = time.monotonic()
    try:
        async with asyncio.timeout(REACH_S):
            _, writer = await asyncio.open_connection(url.hostname, url.port or (443 if url.scheme == "https" else 80))
    except (OSError, TimeoutError) as error:
        why = f"no connection within {REACH_S:g} s" if isinstance(error, TimeoutError) else str(error)
        return Finding(Verdict.WARN, part, address, f"not reached: {why}")
    writer.close()
    return Finding(Verdict.OK, part, address, f"reached in {(time.monotonic() - began_s) * 1000:.0f} ms")


async def _redis(config: Config) -> list[Finding]:
    where = _without_password(config.redis.url)
    if config.redis.url == "off":
        return [Finding(Verdict.OK, "redis", where, "the same answers come from PostgreSQL")]
    if config.redis.url == "embedded":
        return [Finding(Verdict.OK, "redis", where, "`serve` starts it; for development")]
    hints = Dedup(str(config.redis.url), window_ms=1, timeout_ms=int(REACH_S * 1000), metrics=Metrics())
    try:
        up = await hints.ping()
    finally:
        await hints.stop()
    if up:
        return [Finding(Verdict.OK, "redis", where, "reached")]
    return [Finding(Verdict.WARN, "redis", where, "not reached: degraded, the same answers come from PostgreSQL")]


async def _postgres(config: Config) -> list[Finding]:
    where = _without_password(config.database.url)
    if config.database.url == "embedded":
        kept = f"`serve` starts it, its files are in {config.embedded.root}; for development"
        return [Finding(Verdict.OK, "postgres", where, kept)]
    found: list[Finding] = []
    try:
        connection = await asyncpg.connect(str(config.database.url), timeout=CONNECT_S, command_timeout=CONNECT_S)
    except Exception as error:  # an address, a name, a password, a network: whatever it is, we are not connected
        return [Finding(Verdict.FAIL, "postgres", where, f"not connected: {type(error).__name__}: {error}")]
    try:
        async for verdict, detail in _connected(connection, config):
            found.append(Finding(verdict, "postgres", where, detail))
    except Exception as error:
        found.append(Finding(Verdict.FAIL, "postgres", where, f"{type(error).__name__}: {error}"))
    finally:
        connection.terminate()
    return found


async def _connected(connection: asyncpg.Connection, config: Config) -> AsyncIterator[tuple[Verdict, str]]:
    version = connection.get_server_version()
    yield Verdict.OK, f"connected to PostgreSQL {version.major}.{version.minor}"
    try:
        await check_durability(connection, allow_unsafe=config.database.allow_unsafe)
    except UnsafeDatabaseError as error:
        for reason in str(error).splitlines():
            yield Verdict.FAIL, reason
    else:
        yield Verdict.OK, "its settings keep what they acknowledge"
    async for finding in _schema(connection, config.database.role):
        yield finding
    places = int(await connection.fetchval("SHOW max_connections"))
    wanted = config.database.pool_max + CONNECTIONS_BESIDE
    enough = "for this gateway" if places >= wanted else f"this gateway alone wants {wanted}"
    yield Verdict.OK if places >= wanted else Verdict.WARN, f"max_connections is {places}: {enough}"
    clock = DatabaseClock()
    await clock.adjust(connection)
    skew_ms = abs(clock.offset_ms)
    verdict = Verdict.OK if skew_ms < SKEW_WARN_MS else Verdict.WARN if skew_ms < SKEW_ALARM_MS else Verdict.FAIL
    yield verdict, f"its clock is {clock.offset_ms / 1000:+.3f} s from ours, and is the one that counts"


async def _schema(connection: asyncpg.Connection, role: str) -> AsyncIterator[tuple[Verdict, str]]:
    try:
        missing = await pending(connection)
    except MigrationError as error:
        yield Verdict.FAIL, f"schema: {error}"
        return
    if missing:
        yield Verdict.WARN, f"schema: `serve` will apply {', '.join(missing)}"
    else:
        yield Verdict.OK, f"schema: complete, up to {read_migrations()[-1].name}"
        await connection.execute(f'SET ROLE "{role}"')
        await connection.execute("RESET ROLE")
        yield Verdict.OK, f"role {role} is there and may be taken"


def _without_password(url: str) -> str:
    return re.sub(r"(?<=://)([^/@]*?):[^/@]*@", r"\1:***@", url)
