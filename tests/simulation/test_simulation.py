"""The simulation itself: the same seed does the same, kills are kills, and a planted bug is found."""

import asyncio
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation import determinism
from tests.simulation.loop import Deadlock, SimulatedLoop, run
from tests.simulation.network import Network, Rates, Silence

ROOT = Path(__file__).resolve().parents[2]
UNDER_TEST = ("gateway", "actors", "channels")
# What may ask the system for the time of day: it makes key files or is the command line, and no part of a simulation.
OUTSIDE = re.compile(r"channels/simulator/\w*key\w*\.py|gateway/cli\.py")


def simulate(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"}
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)


def digests(hash_seed: str) -> str:
    return simulate("--seeds", "4", "--jobs", "1", "--digests", hash_seed=hash_seed).stdout


def test_the_same_seed_takes_the_same_steps_in_every_process() -> None:
    first, second = digests("1"), digests("2")
    assert first == second
    assert len(set(re.findall(r"digest (\w+)", first))) == 4


def test_a_few_seeds_find_nothing_and_say_so() -> None:
    ran = simulate("--seeds", "6", "--jobs", "1", "--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])
    assert (said["runs"], said["violations"]) == (6, 0)
    assert said["sometimes"]["notification acknowledged"] > 0


def test_a_planted_bug_is_found_and_how_to_repeat_it_is_said() -> None:
    ran = simulate("--seeds", "3", "--jobs", "1", "--plant", "created_before_commit")
    assert ran.returncode == 1
    assert "S1: create" in ran.stdout
    assert "repeat: ./run simulate --seed" in ran.stdout


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_a_killed_process_runs_nothing_any_more_not_even_its_finally() -> None:
    loop, ran = SimulatedLoop(1), list[str]()

    async def victim() -> None:
        try:
            await asyncio.sleep(5.0)
            ran.append("woke")
        finally:
            ran.append("finally")

    async def world() -> None:
        loop.spawn("victim", victim())
        await asyncio.sleep(1.0)
        loop.kill("victim")
        await asyncio.sleep(10.0)
        assert ran == []

    run(world(), loop)


def test_time_jumps_and_a_paused_process_wakes_up_late() -> None:
    loop, woke = SimulatedLoop(1), list[float]()

    async def sleeper() -> None:
        await asyncio.sleep(1.0)
        woke.append(loop.time())

    async def world() -> None:
        loop.spawn("sleeper", sleeper())
        loop.pause("sleeper")
        await asyncio.sleep(3600.0)
        loop.resume("sleeper")
        await asyncio.sleep(2.0)

    run(world(), loop)
    assert woke == [3601.0]  # its first step had to wait, too


def test_who_waits_for_nobody_is_found() -> None:
    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        run(hang(), SimulatedLoop(1))


def test_the_order_of_tasks_is_the_seeds() -> None:
    def order(seed: int) -> list[int]:
        ran: list[int] = []

        async def one(number: int) -> None:
            await asyncio.sleep(1.0)
            ran.append(number)

        async def all_of_them() -> None:
            await asyncio.gather(*(one(number) for number in range(20)))

        run(all_of_them(), SimulatedLoop(seed))
        return ran

    assert order(1) == order(1)
    assert order(1) != order(2)


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rates", "served"), [(Rates(lost_there=1.0), 0), (Rates(lost_back=1.0), 1), (Rates(refused=1.0), 0)]
)
def test_a_lost_request_and_a_lost_reply_are_two_things(rates: Rates, served: int) -> None:
    loop, calls = SimulatedLoop(1), list[int]()
    network = Network(loop, random.Random(1), rates)

    async def serve() -> str:
        calls.append(1)
        return "done"

    async def client() -> None:
        with pytest.raises(Silence) as silence:
            await network.call("server", serve, timeout_s=5.0)
        assert silence.value.sent is (rates.refused == 0)

    run(client(), loop)
    assert len(calls) == served


def test_what_was_sent_is_served_although_its_sender_was_killed() -> None:
    loop, served = SimulatedLoop(1), list[str]()
    network = Network(loop, random.Random(1), Rates(latency_s=1.0))

    async def serve() -> None:
        await asyncio.sleep(2.0)
        served.append("done")

    async def world() -> None:
        loop.spawn("client", network.call("server", serve, timeout_s=60.0))
        await asyncio.sleep(0.001)
        loop.kill("client")
        await asyncio.sleep(10.0)

    run(world(), loop)
    assert served == ["done"]


# --- time and chance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", UNDER_TEST)
def test_nothing_under_test_asks_for_what_can_not_be_replayed(top: str) -> None:
    """`datetime.now` is C and can not be replaced, and neither can names that were imported out of their modules."""
    banned = re.compile(r"\b(datetime\.now|datetime\.today|date\.today|utcnow)\(|from (time|random|secrets) import")
    found = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / top).rglob("*.py"))
        if banned.search(path.read_text()) and not OUTSIDE.search(str(path))
    ]
    assert found == []


def test_what_is_banned_raises_while_a_run_is_active() -> None:
    script = (
        "import time, uuid\n"
        "from tests.simulation import determinism\n"
        "from tests.simulation.loop import SimulatedLoop\n"
        "determinism.install()\n"
        "time.sleep(0)\n"
        "with determinism.active(SimulatedLoop(1), 1):\n"
        "    assert time.time() == determinism.EPOCH_S\n"
        "    for banned in (lambda: time.sleep(0), uuid.uuid4):\n"
        "        try: banned()\n"
        "        except determinism.Banned: continue\n"
        "        raise SystemExit('not banned')\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"}
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_doors_are_not_installed_into_the_tests_own_process() -> None:
    assert determinism._active is None
