"""The command line: `serve` is the product; `app add` lets an application in, `doctor` finds what is wrong, `inbox`
shows what channels sent and has it told again."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
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
    from gateway.storage.notifications import Line

REFUSED = 4  # exit code: understood, and not done
DAY_MS = 86_400_000
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


@main.group()
def inbox() -> None:
    """What channels sent: every notification as it came in."""


since_option = click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"]),
    help="From this moment (UTC) on.",
)
verdict_option = click.option("--verdict", help="Only those of which this was said: verified, unknown_order, stale ...")


@inbox.command("list")
@since_option
@verdict_option
@click.option("--order", "order_id", help="Only those that name this order.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@config_option
def inbox_list(
    since: datetime | None, verdict: str | None, order_id: str | None, limit: int, as_json: bool, path: Path | None
) -> None:
    """Show the latest notifications; without --since those of the last day."""
    from gateway.replay import listed  # noqa: PLC0415

    config = _load(path)
    since_ms = _ms(datetime.now(UTC)) - DAY_MS if since is None else _ms(since)
    lines = asyncio.run(_clearly(lambda: listed(config, since_ms, verdict, order_id, limit)))
    for line in lines:
        click.echo(msgspec.json.encode(line) if as_json else _inbox_line(line))


@inbox.command("replay")
@click.argument("numbers", nargs=-1, type=int, metavar="[ID]...")
@since_option
@verdict_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@config_option
def inbox_replay(
    numbers: tuple[int, ...], since: datetime | None, verdict: str | None, as_json: bool, path: Path | None
) -> None:
    """Verify notifications again, as of when they came in, and tell their orders; harmless to repeat."""
    if bool(numbers) == (since is not None):
        raise click.UsageError("name notifications, or --since when")
    config = _load(path)
    asyncio.run(_clearly(lambda: _replay(config, numbers, since, verdict, as_json)))


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
    from gateway.replay import ReplayError  # noqa: PLC0415
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
        ReplayError,
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


async def _replay(
    config: Config, numbers: Sequence[int], since: datetime | None, verdict: str | None, as_json: bool
) -> None:
    from gateway.replay import replayed, replayed_since  # noqa: PLC0415

    told = replayed(config, numbers) if since is None else replayed_since(config, _ms(since), verdict)
    async for one in told:
        text = f"{one.notification_id}  {one.order_id}{one.attempt}  {one.channel}  {one.before} -> {one.now}"
        click.echo(msgspec.json.encode(one) if as_json else text)


def _inbox_line(line: "Line") -> str:
    at = datetime.fromtimestamp(line.received_at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    waits = f"  ({line.waits})" if line.waits else ""
    return f"{line.notification_id}  {at}  {line.order_id}{line.attempt}  {line.channel}  {line.verdict}{waits}"


def _ms(at: datetime) -> int:
    """Unix milliseconds; what names no zone is UTC."""
    return int(at.replace(tzinfo=UTC).timestamp() * 1000)
