"""The demo's configuration files: the defaults, every time divided, and the words that say so."""

import base64
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from channels.simulator.credentials import Account
from gateway.config import Checks, Webhooks
from gateway.config.rules import OFFICIAL_HOSTS

FASTER = 20  # half an hour of waiting becomes ninety seconds; the ladders keep their shape
# Real work is waited for, not a person or an outage: these stay as they are.
NOT_COMPRESSED = frozenset({"pay_wait_s", "jitter", "per_endpoint"})
WEBHOOK_TIMEOUT_S = 1.5
CHANNEL_TIMEOUT_S = 2.0
LEASE_S = 3.0  # longer than the channel's timeout; a killed process holds its claims for so long
SWEEP_EVERY_S = 0.5


class Addresses(msgspec.Struct, frozen=True):
    """Where the parts that the gateway talks to are."""

    port: int
    database_url: str
    redis_url: str
    channel_url: str


def compressed(section: Checks | Webhooks) -> dict[str, object]:
    """The section's fields, every time in it divided."""
    return {name: _divided(name, value) for name, value in msgspec.structs.asdict(section).items()}


def _divided(name: str, value: object) -> object:
    if name in NOT_COMPRESSED:
        return value
    if isinstance(value, tuple):
        return [seconds / FASTER for seconds in value]
    assert isinstance(value, int | float)
    return value / FASTER


def said() -> str:
    """The compression in words."""
    real, fast = Checks(), compressed(Checks())
    ladder = "/".join(f"{seconds:g}" for seconds in real.queries_s)
    assert isinstance(fast["queries_s"], list)
    quick = "/".join(f"{seconds:g}" for seconds in fast["queries_s"])
    return (
        f"time runs {FASTER}x faster: a silent channel is asked after {fast['timeout_s']:g} s, not {real.timeout_s:g},"
        f" then {quick} s, not {ladder}; notifications and webhooks are retried {FASTER}x sooner"
    )


def write_gateway(
    path: Path,
    addresses: Addresses,
    accounts: Mapping[str, Account],
    overrides: Mapping[str, Mapping[str, object]] = {},
) -> None:
    """Write the gateway's file; `accounts` are its own, by channel. `overrides` replace single values of sections."""
    sections: dict[str, Mapping[str, object]] = {
        "server": {
            "host": "127.0.0.1",
            "port": addresses.port,
            "public_url": f"http://127.0.0.1:{addresses.port}",
            "drain_s": 3,
            "single_process": True,
        },
        "database": {"url": addresses.database_url},
        "redis": {"url": addresses.redis_url},
        "security": {"master_key": base64.b64encode(secrets.token_bytes(32)).decode()},
        "embedded": {"root": str(path.parent)},
        "checks": compressed(Checks()),
        "sweep": {"every_s": SWEEP_EVERY_S, "grace_s": SWEEP_EVERY_S, "lease_s": LEASE_S},
        "webhooks": {**compressed(Webhooks()), "timeout_s": WEBHOOK_TIMEOUT_S},
        **channel_sections(accounts, addresses.channel_url),
    }
    names = [*sections, *(name for name in overrides if name not in sections)]
    _write(path, {name: {**sections.get(name, {}), **overrides.get(name, {})} for name in names})


def write_control(path: Path, channel_url: str, accounts: Mapping[str, Account]) -> None:
    """Write the control arm's file: nothing but its channels."""
    _write(path, channel_sections(accounts, channel_url))


def channel_sections(
    accounts: Mapping[str, Account], url: str, timeout_s: float = CHANNEL_TIMEOUT_S
) -> dict[str, Mapping[str, object]]:
    """The channels' sections; every address of every platform is the simulator's."""
    return {
        f"channels.{name}": {
            **dict.fromkeys(OFFICIAL_HOSTS[name], url),
            "timeout_s": timeout_s,
            **account.section(),
        }
        for name, account in accounts.items()
    }


def _write(path: Path, sections: Mapping[str, Mapping[str, object]]) -> None:
    text = 'env = "dev"\n' + "".join(_section(name, fields) for name, fields in sections.items())
    path.write_text(text, "utf-8")
    path.chmod(0o600)


def _section(name: str, fields: Mapping[str, object]) -> str:
    # A JSON value of these kinds (text, number, boolean, list) is a TOML value too.
    return f"\n[{name}]\n" + "".join(
        f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in fields.items()
    )
