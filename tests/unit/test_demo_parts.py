"""The pure parts of the demo: when it kills, how it compresses time, and how it handles its children."""

import asyncio
import sys
import time
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from bench.demo import configuration
from bench.demo.configuration import FASTER, Addresses
from bench.demo.faults import OWN, Faults
from bench.demo.figures import Figures, Moment
from bench.demo.kills import kill_moments
from bench.demo.proof import Result
from bench.demo.stage import WAYS, Play
from bench.processes import PRCTL, Child, ProcessError, free_port
from channels.contract import CredentialType
from channels.params import mistake_in
from channels.simulator.credentials import KEY_MODULES, make_credentials
from channels.simulator.platforms import load_platforms
from examples.shop.customers import parse_mix
from gateway import config
from gateway.config import Checks
from gateway.installation import load_channels


@pytest.mark.parametrize(("seconds", "count"), [(1, 2), (6, 2), (10, 2), (30, 6), (60, 12)])
def test_kills_come_at_least_twice_in_order_within_the_run_and_apart(seconds: float, count: int) -> None:
    for seed in range(50):
        moments = kill_moments(seed, seconds)
        assert len(moments) == count
        assert moments == sorted(moments)
        assert moments[0] > 0
        assert moments[-1] < seconds
        gaps = [later - earlier for earlier, later in pairwise(moments)]
        assert min(gaps) >= 0.49 * seconds / count
    assert kill_moments(1, 30) == kill_moments(1, 30) != kill_moments(2, 30)


@pytest.mark.parametrize("wrong", [{"lost": 1}, {"double": 1}, {"phantom": 1}, {"mismatch": 1}, {"paid_at_channel": 0}])
def test_a_run_passes_only_if_something_was_paid_and_nothing_is_amiss(wrong: dict[str, int]) -> None:
    result = Result(1, orders=9, paid_at_channel=8, paid_here=8, told=8, kills=2, excess=1, given_back=1,
                    lost=0, double=0, phantom=0, mismatch=0, control_lost=3)  # fmt: skip
    assert result.passed
    assert not msgspec.structs.replace(result, **wrong).passed


def test_every_ladder_of_checks_is_divided_alike_and_keeps_its_shape() -> None:
    fast = configuration.compressed(Checks())
    assert fast["timeout_s"] == 30 / FASTER
    assert fast["queries_s"] == [0.5, 1.0, 1.5]
    assert fast["pay_wait_s"] == Checks().pay_wait_s
    assert set(fast) == set(Checks.__struct_fields__)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The keys of every platform, and of one merchant."""
    folder = tmp_path_factory.mktemp("simulator")
    make_credentials(folder, ["holdfast"])
    return folder


def test_the_demo_s_configuration_files_are_ones_the_gateway_accepts(simulator: Path, tmp_path: Path) -> None:
    accounts = make_credentials(simulator, ["holdfast"])["holdfast"]
    database = "postgresql://postgres@/postgres?host=%2Fx"
    addresses = Addresses(20001, database, "unix:///x.sock", "http://127.0.0.1:20002")
    configuration.write_gateway(tmp_path / "holdfast.toml", addresses, accounts)
    configuration.write_control(tmp_path / "control.toml", addresses.channel_url, accounts)
    read = config.load(tmp_path / "holdfast.toml", {})
    assert read.server.public_url == "http://127.0.0.1:20001"
    assert read.checks.timeout_s == 1.5
    assert not read.database.allow_unsafe
    assert "20x faster" in configuration.said()
    for channels in (read.channels, config.load(tmp_path / "control.toml", {}).channels):
        assert [section.base_url for section in channels.installed().values()] == [addresses.channel_url] * len(
            accounts
        )
        loaded = load_channels(channels, int(time.time()))
        assert {name: each.channel.account for name, each in loaded.items()} == {
            name: account.account for name, account in accounts.items()
        }


def test_the_demo_pays_through_every_channel_in_ways_that_it_has(simulator: Path) -> None:
    play = Play(seconds=1, rate=1, seed=1)
    accounts = make_credentials(simulator, ["holdfast"])["holdfast"]
    configuration.write_control(simulator / "control.toml", "http://127.0.0.1:1", accounts)
    loaded = load_channels(config.load(simulator / "control.toml", {}).channels, int(time.time()))
    ways = list(parse_mix(play.pay_with).weights)
    assert {way.channel for way in ways} == set(WAYS) == set(loaded) == set(KEY_MODULES)
    for way in ways:
        method = loaded[way.channel].channel.methods[way.method]
        assert method.credential in (CredentialType.QR, CredentialType.URL, CredentialType.FORM)
        assert mistake_in(way.params, method) == ""


def test_every_fault_of_the_demo_is_one_its_platform_knows(simulator: Path) -> None:
    faults = Faults(nasty=0.5)
    platforms = load_platforms(simulator, 1)
    assert set(OWN) == set(platforms)
    for name in faults.shares(platforms):
        channel, dot, fault = name.partition(".")
        for platform in [platforms[channel]] if dot else platforms.values():
            assert (fault if dot else name) in platform.no_faults.__struct_fields__
    assert all(words in faults.said_of_nasty(OWN) for own in OWN.values() for words in own)
    assert set(Faults(nasty=0).shares(OWN)) == {
        *("drop", "duplicate", "delay_s", "error_before", "error_after", "close_overtaken")
    }


def test_the_channels_add_up() -> None:
    moment = Moment({"a": Figures(orders=2, told=1), "b": Figures(orders=3, control_paid=4)})
    assert moment.total == Figures(orders=5, told=1, control_paid=4)


def child(tmp_path: Path, code: str) -> Child:
    return Child("child", [sys.executable, "-u", "-c", code], tmp_path / "child.log")


async def test_a_child_is_ready_when_it_says_so_and_can_be_killed_and_started_again(tmp_path: Path) -> None:
    program = child(tmp_path, "print('noise'); print('ready 1'); import time; time.sleep(60)")
    assert await program.start(ready="ready") == "ready 1"
    first = program.pid
    assert await program.kill() == first
    assert program.pid is None
    await program.start(ready="ready")
    assert program.pid not in (None, first)
    assert await program.stop()
    assert not program.running


async def test_a_child_that_ends_early_is_reported_with_its_last_words(tmp_path: Path) -> None:
    program = child(tmp_path, "import sys; sys.exit('no such database')")
    with pytest.raises(ProcessError, match="no such database"):
        await program.start(ready="ready")


async def test_a_child_that_stays_silent_is_killed_and_reported(tmp_path: Path) -> None:
    program = child(tmp_path, "import time; time.sleep(60)")
    with pytest.raises(ProcessError, match="did not become ready"):
        await program.start(ready="ready", within_s=0.2)
    assert not program.running


async def test_a_child_deaf_to_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(60)"
    program = child(tmp_path, deaf)
    await program.start(ready="ready")
    assert not await program.stop(grace_s=0.2)
    assert not program.running


async def test_a_child_that_prints_more_than_a_pipe_holds_is_not_stopped_by_it(tmp_path: Path) -> None:
    program = child(tmp_path, "print('ready'); print('x\\n' * 1_000_000); print('end')")
    await program.start(ready="ready")
    await program.ended()
    assert (tmp_path / "child.log").read_text().endswith("x\n\nend\n")


async def test_settings_of_the_product_in_our_environment_do_not_reach_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_SERVER__PORT", "1")
    program = child(tmp_path, "import os; print('ready', [name for name in os.environ if 'HOLDFAST' in name])")
    assert await program.start(ready="ready") == "ready []"
    await program.ended()


@pytest.mark.skipif(not PRCTL, reason="only Linux ends children with their parent")
async def test_a_parent_killed_by_sigkill_takes_its_children_along(tmp_path: Path) -> None:
    grandchild = "print('ready'); import time; time.sleep(60)"
    log = str(tmp_path / "grandchild.log")
    code = f"""
import asyncio, pathlib, sys
from bench.processes import Child

async def main():
    child = Child("child", [sys.executable, "-u", "-c", {grandchild!r}], pathlib.Path({log!r}))
    await child.start(ready="ready")
    print("child", child.pid)
    await asyncio.sleep(60)

asyncio.run(main())
"""
    program = child(tmp_path, code)
    pid = int((await program.start(ready="child")).split()[1])
    await program.kill()
    deadline = time.monotonic() + 10
    while (Path("/proc") / str(pid) / "cmdline").exists() and (Path("/proc") / str(pid) / "cmdline").read_bytes():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_ports_are_distinct_and_outside_the_range_of_outgoing_connections() -> None:
    taken: set[int] = set()
    ports = [free_port(taken) for _ in range(5)]
    assert len(set(ports)) == 5
    assert max(ports) < 32768
