"""The real gateway as a process, on embedded databases of its own, with one app that holds a key."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.children import Child, child
from bench.cost import cpu_s, tree_cpu_s
from bench.generator import Job
from bench.interruption import postponed
from gateway.embedded import Postgres, Valkey

APP_TIMEOUT_S = 30.0
CONFIG = """\
env = "dev"
[server]
port = 0
[database]
url = "embedded"
[redis]
url = "embedded"
[embedded]
root = "{root}"
"""


class Cost(msgspec.Struct, frozen=True):
    """CPU seconds so far of the gateway and of its databases."""

    gateway_s: float
    postgres_s: float
    valkey_s: float

    def since(self, earlier: "Cost", count: int) -> "Cost":
        """What `count` of something cost, each, since an earlier reading."""
        return Cost(
            gateway_s=(self.gateway_s - earlier.gateway_s) / count,
            postgres_s=(self.postgres_s - earlier.postgres_s) / count,
            valkey_s=(self.valkey_s - earlier.valkey_s) / count,
        )

    def __str__(self) -> str:
        """In microseconds."""
        gateway, postgres, valkey = (s * 1e6 for s in (self.gateway_s, self.postgres_s, self.valkey_s))
        return f"CPU µs: gateway {gateway:.0f}, Postgres {postgres:.0f}, Valkey {valkey:.0f}"


class GatewayUnderTest(msgspec.Struct, frozen=True):
    """A gateway that serves."""

    process: Child
    root: Path
    host: str
    port: int
    api_key: str

    def job(self, script: str, run: str, *, connections: int, seconds: float) -> Job:
        """A job against this gateway, as its app."""
        return Job(
            host=self.host,
            port=self.port,
            script=script,
            connections=connections,
            seconds=seconds,
            api_key=self.api_key,
            run=run,
        )

    def cost(self) -> Cost:
        """Read the CPU clocks."""
        return Cost(
            gateway_s=cpu_s(self.process.pid),
            postgres_s=tree_cpu_s(Postgres(self.root).pid or 0),
            valkey_s=cpu_s(Valkey(self.root).pid or 0),
        )


def write_config(directory: Path, channel: str = "") -> Path:
    """A configuration with embedded databases under `directory`, and what `channel` adds to it."""
    path = directory / "holdfast.toml"
    path.write_text(CONFIG.format(root=directory) + channel)
    return path


@contextmanager
def serving_gateway(directory: Path, *, channel: str = "", webhook_url: str = "") -> Iterator[GatewayUnderTest]:
    """Start it on a new empty database; databases and all end with the block."""
    config = write_config(directory, channel)
    try:
        with child("gateway", "gateway", "serve", "--config", str(config), directory=directory) as process:
            host, port = process.address()
            api_key = add_app(config, webhook_url)
            yield GatewayUnderTest(process=process, root=directory, host=host, port=port, api_key=api_key)
    finally:
        with postponed():
            asyncio.run(end_databases(directory))


def add_app(config: Path, webhook_url: str) -> str:
    """Make the app of the bench and return its key.

    Raises:
        ChildError: the command refused.
    """
    webhook = ["--webhook", webhook_url] if webhook_url else []
    command = ("gateway", "app", "add", "bench", *webhook, "--json", "--config", str(config))
    with child("app-add", *command, directory=config.parent) as adding:
        answer = adding.finish(b"", APP_TIMEOUT_S)
    return str(msgspec.json.decode(answer)["api_key"])


async def end_databases(root: Path) -> None:
    """Shut down what a killed gateway would leave running."""
    await Postgres(root).stop(force=True)
    await Valkey(root).stop(force=True)
