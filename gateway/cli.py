"""The command line: `serve` is the product, `app add` lets an application in, `doctor` finds what is wrong."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import asyncpg
import click
import msgspec
import uvloop

from channels.errors import KeyMaterialError
from gateway import logs
from gateway.config import Config, ConfigError, Env, load

if TYPE_CHECKING:
    from gateway.app import Gateway

REFUSED = 4  # exit code: understood, and not done
STOP_S = 10.0  # beside draining: the last flush, and closing what is open

config_option = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A TOML file; HOLDFAST_SECTION__KEY variables win over it.",
)


@click.group()
def main() -> None:
    """Holdfast, a payment center that never loses an order."""


@main.command()
@config_option
def serve(path: Path | None) -> None:
    """Run one gateway. Without a database address it starts the embedded ones."""
    config = _load(path)
    uvloop.run(_clearly(lambda: _serve(config)))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@config_option
def doctor(as_json: bool, path: Path | None) -> None:
    """Say what is wrong with an installation, or soon will be, without serving; exits 1 if it can't serve."""
    from gateway.doctor import as_text, diagnose, is_sound  # noqa: PLC0415 - heavy parts load only for this verb

    logs.configure(production=False)
    findings = uvloop.run(diagnose(path, os.environ))
    sound = is_sound(findings)
    click.echo(msgspec.json.encode({"sound": sound, "findings": findings}) if as_json else as_text(findings))
    sys.exit(not sound)


@main.group()
def app() -> None:
    """Business applications."""


@app.command("add")
@click.argument("name")
@click.option("--webhook", "webhook_url", help="Where the app wants to hear of its orders.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@config_option
def app_add(name: str, webhook_url: str | None, as_json: bool, path: Path | None) -> None:
    """Make an app; its key and webhook secret are shown once."""
    config = _load(path)
    made = asyncio.run(_clearly(lambda: _add_app(config, name, webhook_url)))
    if as_json:
        click.echo(json.dumps(made))
        return
    click.echo(f"app             {made['app_id']}")
    click.echo(f"api key         {made['api_key']}")
    click.echo(f"webhook secret  {made['webhook_secret']}")
    click.echo("Neither is shown again: the key is stored as a hash, the secret sealed.")


@main.group("case")
def case_group() -> None:
    """What people must look at."""


@case_group.command("list")
@click.option("--resolved", is_flag=True, help="Those that are settled instead.")
@click.option("--app", "app_id", help="Of this app only.")
@click.option("--after", help="Behind this case.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@config_option
def case_list(resolved: bool, app_id: str | None, after: str | None, as_json: bool, path: Path | None) -> None:
    """List open cases, oldest first, at most 100."""
    from gateway import casebook  # noqa: PLC0415

    config = _load(path)
    click.echo(asyncio.run(_clearly(lambda: casebook.listed(config, app_id, not resolved, after, as_json))))


@case_group.command("show")
@click.argument("case_id")
@config_option
def case_show(case_id: str, path: Path | None) -> None:
    """Show a case with its order, as JSON, and what can be done about it."""
    from gateway import casebook  # noqa: PLC0415

    config = _load(path)
    click.echo(asyncio.run(_clearly(lambda: casebook.shown(config, case_id))))


@case_group.command("resolve")
@click.argument("case_id")
@click.argument("action", type=click.Choice(["retry", "accept", "refund", "close"]))
@click.option("--by", required=True, help="Who decides.")
@click.option("--note", required=True, help="Why; it is kept with the case.")
@config_option
def case_resolve(case_id: str, action: str, by: str, note: str, path: Path | None) -> None:
    """Do something about a case; a running gateway carries it out."""
    from gateway import casebook  # noqa: PLC0415

    config = _load(path)
    click.echo(asyncio.run(_clearly(lambda: casebook.resolved(config, case_id, action, by, note))))


@main.group("config")
def config_group() -> None:
    """The configuration."""


@config_group.command("check")
@config_option
def config_check(path: Path | None) -> None:
    """Read the configuration and report every mistake."""
    _load(path)
    click.echo("the configuration is fine")


def _load(path: Path | None) -> Config:
    try:
        config = load(path, os.environ)
    except ConfigError as error:
        _refuse(str(error))
    logs.configure(production=config.env is Env.PROD)
    return config


async def _clearly(work: Callable[[], Awaitable[Any]]) -> Any:
    """What an operator can mend is said in a sentence, without a traceback."""
    from gateway.app import AddressInUse  # noqa: PLC0415 - heavy parts load only for the verbs that need them
    from gateway.casebook import CaseRefused  # noqa: PLC0415
    from gateway.embedded import EmbeddedError  # noqa: PLC0415
    from gateway.probe import ProbeError  # noqa: PLC0415
    from gateway.sealing import MasterKeyError  # noqa: PLC0415
    from gateway.storage.apps import AppError  # noqa: PLC0415
    from gateway.storage.migrate import MigrationError, UnsafeDatabaseError  # noqa: PLC0415

    try:
        return await work()
    except (
        AddressInUse,
        AppError,
        CaseRefused,
        EmbeddedError,
        KeyMaterialError,
        MasterKeyError,
        MigrationError,
        ProbeError,
        UnsafeDatabaseError,
    ) as error:
        _refuse(str(error))
    except (asyncpg.PostgresError, OSError) as error:
        _refuse(f"{type(error).__name__}: {error}")


def _refuse(sentence: str) -> NoReturn:
    click.echo(sentence, err=True)
    sys.exit(REFUSED)


async def _serve(config: Config) -> None:
    from gateway.app import Gateway, arm_probes  # noqa: PLC0415

    arm_probes(config, dict(os.environ))
    gateway = Gateway(config)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop_then_end, stopping)
    try:
        await gateway.start()
        click.echo(f"serving {gateway.url}")
        await stopping.wait()
    finally:
        await _stop_in_time(gateway, 2 * config.server.drain_s + STOP_S)


async def _stop_in_time(gateway: "Gateway", limit_s: float) -> None:
    """A database that is away must not keep us for ever: what is in doubt then is in doubt as after a kill."""
    try:
        async with asyncio.timeout(limit_s):
            await gateway.stop()
    except TimeoutError:
        click.echo("stopped with work unfinished; the next start finds it", err=True)


def _stop_then_end(stopping: asyncio.Event) -> None:
    """The first signal drains; the second ends the process now, which must be just as safe."""
    if stopping.is_set():
        os._exit(130)
    stopping.set()


async def _add_app(config: Config, name: str, webhook_url: str | None) -> dict[str, str]:
    from gateway.app import sealer_of  # noqa: PLC0415
    from gateway.databases import Databases, make_pool, prepare_schema  # noqa: PLC0415
    from gateway.storage.apps import Apps  # noqa: PLC0415

    databases = Databases(config)
    try:
        await databases.start()
        await prepare_schema(config, databases.postgres_url)
        pool = await make_pool(config, databases.postgres_url)
        try:
            made = await Apps(pool, sealer_of(config)).add(name, webhook_url)
        finally:
            await pool.close()
    finally:
        await databases.stop()
    return {"app_id": made.app_id, "api_key": made.api_key, "webhook_secret": made.webhook_secret}
