"""The embedded servers against everything that is known to go wrong with them, with real processes and real kills."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis

from gateway.embedded import EmbeddedError, Postgres, Valkey, launcher, privileges
from gateway.embedded.privileges import RunAs
from gateway.embedded.supervisor import command_of

CHECKOUT = Path(__file__).resolve().parents[2]
NOBODY = 65534

# A process that uses the servers as the gateway does: start, say where, stay until its input ends, leave.
USER = """
import asyncio, json, sys
from pathlib import Path
from gateway.embedded import Postgres, Valkey
async def main():
    servers = [Postgres(Path(sys.argv[1]), durable=False), Valkey(Path(sys.argv[1]))]
    urls = [await server.start() for server in servers]
    print(json.dumps({"urls": urls, "pids": [server.pid for server in servers],
                      "started": [server.started_here for server in servers]}), flush=True)
    sys.stdin.read()
    for server in servers:
        await server.stop()
asyncio.run(main())
"""


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def made_once() -> Iterator[Path]:
    """The data directory of a server that was started once and stopped."""

    async def make(directory: Path) -> None:
        async with running(directory):
            pass

    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as directory:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(make(Path(directory)))
        yield Path(directory) / "pg/data"


@pytest.fixture
def initialised(root: Path, made_once: Path) -> None:
    """For tests that are not about initdb: it has been run."""
    shutil.copytree(made_once, root / "pg/data")


@asynccontextmanager
async def running(root: Path, *, durable: bool = False) -> AsyncIterator[Postgres]:
    server = Postgres(root, durable=durable, die_with_parent=True)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(force=True)


@asynccontextmanager
async def user_process(root: Path, script: str = USER, **environment: str) -> AsyncIterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), **environment},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            for server in (Postgres(root), Valkey(root)):
                await server.stop()  # what it left behind, unless others use it


def answer(process: "subprocess.Popen[str]") -> dict[str, list[Any]]:
    assert process.stdout is not None
    said: dict[str, list[Any]] = json.loads(process.stdout.readline())
    return said


async def until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)


async def ask(url: str, question: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


def descendants(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill_with_children(pid: int) -> None:
    children = descendants(pid)
    os.kill(pid, signal.SIGKILL)
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


async def test_a_fresh_server_is_durable_and_set_as_we_want_it(root: Path) -> None:
    async with running(root, durable=True) as server:
        query = "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name = ANY($${}$$)"
        names = "{fsync,full_page_writes,synchronous_commit,data_checksums,jit,max_connections,max_wal_size}"
        settings = await ask(server.url, query.format(names))
        assert settings == (
            "data_checksums=on fsync=on full_page_writes=on jit=off max_connections=100 max_wal_size=2048 "
            "synchronous_commit=on"
        )
        assert await ask(server.url, "SHOW timezone") == "UTC"
        assert await ask(server.url, "SELECT datlocale FROM pg_database WHERE datname = 'postgres'") == "C.UTF-8"


@pytest.mark.usefixtures("initialised")
async def test_a_stopped_server_starts_again_with_what_it_held(root: Path) -> None:
    async with running(root) as server:
        await ask(server.url, "CREATE TABLE kept AS SELECT 7 AS number")
    assert server.pid is None
    async with running(root) as server:
        assert await ask(server.url, "SELECT number FROM kept") == 7


@pytest.mark.usefixtures("initialised")
async def test_an_immediate_restart_recovers_what_was_committed(root: Path) -> None:
    async with running(root, durable=True) as server:
        await ask(server.url, "CREATE TABLE kept AS SELECT 7 AS number")
        before = server.pid
        await server.restart_immediate()
        assert server.pid != before
        assert await ask(server.url, "SELECT number FROM kept") == 7


@pytest.mark.usefixtures("initialised")
async def test_a_killed_server_with_all_its_children_starts_again(root: Path) -> None:
    """Its parent does not reap it here, so it stays a zombie: PostgreSQL itself would call that a running server."""
    async with user_process(root) as holder:
        pid = int(answer(holder)["pids"][0])
        kill_with_children(pid)
        await until(lambda: command_of(pid) == "")
        assert Path(f"/proc/{pid}").exists(), "the holder has not reaped it"
        assert (root / "pg/data/postmaster.pid").exists()
        async with running(root) as server:
            assert server.started_here
            assert server.pid not in {None, pid}


@pytest.mark.usefixtures("initialised")
async def test_a_killed_postmaster_is_replaced_only_when_its_children_are_gone(root: Path) -> None:
    async with running(root) as server:
        pid = server.pid
        assert pid is not None
        children = descendants(pid)
        assert children
        os.kill(pid, signal.SIGKILL)
        await server.start()
        assert all("postgres" not in command_of(child) for child in children)
        assert await ask(server.url, "SELECT 1") == 1


@pytest.mark.usefixtures("initialised")
async def test_a_process_id_that_now_belongs_to_another_program_is_not_the_server(root: Path) -> None:
    async with running(root) as server:
        kill_with_children(server.pid or 0)
    stale = (root / "pg/data/postmaster.pid").read_text().splitlines()
    lock = server.socket_dir / ".s.PGSQL.5432.lock"
    reused = "\n".join([str(os.getpid()), *stale[1:], ""])
    (root / "pg/data/postmaster.pid").write_text(reused)
    lock.write_text(reused)
    async with running(root) as server:
        assert server.pid != os.getpid()
        assert await ask(server.url, "SELECT 1") == 1


async def test_a_locale_this_machine_does_not_have_changes_nothing(root: Path) -> None:
    async with user_process(root, LC_ALL="zh_CN.UTF-8", LANG="zh_CN.UTF-8", PGDATA="/nowhere", PGPORT="1") as process:
        url = answer(process)["urls"][0]
        assert await ask(url, "SELECT '中文'") == "中文"


@pytest.mark.usefixtures("initialised")
async def test_four_processes_that_start_at_once_share_one_server_and_the_last_stops_it(root: Path) -> None:
    async with AsyncExitStack() as stack:
        users = [await stack.enter_async_context(user_process(root)) for _ in range(4)]
        said = [answer(user) for user in users]
        assert len({tuple(one["pids"]) for one in said}) == 1
        assert sorted(one["started"][0] for one in said) == [False, False, False, True]
        pids = [int(pid) for pid in said[0]["pids"]]
        users[0].kill()
        for user in users[1:3]:
            user.communicate(timeout=20)
        assert all(command_of(pid) for pid in pids), "the fourth still uses them"
        users[3].communicate(timeout=20)
        assert not any(command_of(pid) for pid in pids)


@pytest.mark.usefixtures("initialised")
async def test_the_server_outlives_a_killed_process_and_the_next_one_attaches(root: Path) -> None:
    async with user_process(root) as process:
        pid = int(answer(process)["pids"][0])
        process.kill()
        async with running(root) as server:
            assert (server.pid, server.started_here) == (pid, False)
    assert command_of(pid) == ""


@pytest.mark.usefixtures("initialised")
async def test_what_a_killed_process_left_running_can_be_stopped_but_not_under_its_users(root: Path) -> None:
    command = [sys.executable, "-m", "gateway.embedded", str(root)]
    async with user_process(root) as process:
        pids = [int(pid) for pid in answer(process)["pids"]]
        refused = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert f"PostgreSQL (pid {pids[0]}) in {root} is in use" in refused.stderr
        process.kill()
        process.wait()
        assert all(command_of(pid) for pid in pids)
        assert subprocess.run(command, cwd=CHECKOUT, check=False).returncode == 0
        assert not any(command_of(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
@pytest.mark.usefixtures("initialised")
async def test_a_server_that_shall_die_with_its_parent_does(root: Path) -> None:
    async with user_process(root, USER.replace("durable=False", "die_with_parent=True")) as process:
        pid = int(answer(process)["pids"][0])
        process.kill()
        await until(lambda: command_of(pid) == "")


async def test_a_path_too_long_for_a_socket_gets_a_private_directory_elsewhere(root: Path) -> None:
    deep = root / ("long" * 20) / ("path" * 20)
    server = Postgres(deep, durable=False, die_with_parent=True)
    try:
        await server.start()
        assert server.socket_dir.stat().st_mode & 0o777 == 0o700
        assert server.socket_dir == Postgres(deep).socket_dir
        assert await ask(server.url, "SELECT 1") == 1
    finally:
        await server.stop(force=True)
        shutil.rmtree(server.socket_dir)


async def test_a_path_with_signs_that_mean_something_in_a_url_works(root: Path) -> None:
    async with running(root / "a b&c=d%2F中") as server:
        assert await ask(server.url, "SELECT 1") == 1


async def test_a_socket_directory_of_somebody_else_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    monkeypatch.setattr(tempfile, "tempdir", str(root))
    server = Postgres(root / ("long" * 20) / ("path" * 20), durable=False)
    server.socket_dir.mkdir()
    os.chown(server.socket_dir, 1, 1)
    with pytest.raises(EmbeddedError, match="must be a directory of our own"):
        await server.start()


async def test_a_kill_during_initdb_leaves_nothing_half_made(root: Path) -> None:
    def initialising() -> bool:
        return any(new.joinpath("base").exists() for new in (root / "pg").glob("data.new-*"))

    async with user_process(root) as process:
        await until(initialising)
        process.kill()
    assert not (root / "pg/data").exists()
    async with running(root) as server:
        assert await ask(server.url, "SELECT 1") == 1
    assert not list((root / "pg").glob("data.new-*"))


@pytest.mark.usefixtures("initialised")
async def test_a_server_that_can_not_start_says_why_with_the_end_of_its_log(root: Path) -> None:
    async with running(root):
        pass
    with (root / "pg/data/postgresql.conf").open("a") as configuration:
        configuration.write("work_mem = 'much'\n")
    with pytest.raises(EmbeddedError, match=r"ended while starting[\s\S]*work_mem"):
        await Postgres(root, durable=False).start()


# --- as root, as nobody in particular, as an ordinary user ------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_root_changes_nothing_on_the_host(root: Path) -> None:
    """No account made, no directory opened: the files stay ours, as a user namespace allows."""
    if privileges.choose_run_as() is not RunAs.NAMESPACE:
        pytest.skip("this machine refuses user namespaces")
    accounts, mode = Path("/etc/passwd").read_bytes(), root.stat().st_mode
    async with running(root) as server:
        assert (root / "pg/data").stat().st_uid == 0
        assert Path(f"/proc/{server.pid}/status").read_text().count("Uid:\t0\t0\t0\t0") == 1
    assert (Path("/etc/passwd").read_bytes(), root.stat().st_mode) == (accounts, mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_root_without_user_namespaces_becomes_nobody_with_a_readable_path(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Postgres(root, durable=False)
    if privileges.closed_to_others(server.bin_dir):
        pytest.skip("the account nobody can not reach the programs of this checkout")
    monkeypatch.setattr(privileges, "choose_run_as", lambda: RunAs.NOBODY)
    root.chmod(0o755)
    async with running(root) as server:
        assert (root / "pg/data").stat().st_uid == NOBODY
        assert await ask(server.url, "SELECT 1") == 1
    monkeypatch.undo()
    async with running(root) as server:
        assert await ask(server.url, "SELECT 1") == 1, "the data directory came back to us"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_root_without_user_namespaces_and_with_a_closed_path_says_what_to_do(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privileges, "choose_run_as", lambda: RunAs.NOBODY)
    root.chmod(0o700)
    with pytest.raises(EmbeddedError, match=r"can not pass .*: run as an ordinary user"):
        await Postgres(root, durable=False).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_launcher_says_when_the_machine_refuses() -> None:
    """An account without rights can not become nobody."""
    interpreter = interpreter_for_all()
    if interpreter is None:
        pytest.skip("another account can not reach an interpreter of this version")
    command = privileges.launch(RunAs.NOBODY, ["/bin/true"])
    assert subprocess.run(command, check=False).returncode == 0
    with Path(launcher.__file__).open() as source:
        command = [interpreter, "-I", "-S", "-", *command[4:]]
        refused = subprocess.run(command, stdin=source, user=1, capture_output=True, check=False)
    assert refused.returncode == launcher.REFUSED
    assert b"cannot run /bin/true as nobody" in refused.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
@pytest.mark.parametrize("uid", [NOBODY, 54321], ids=["an ordinary account", "an account without a name"])
def test_the_server_runs_under(uid: int, root: Path) -> None:
    interpreter = interpreter_for_all()
    if interpreter is None or privileges.closed_to_others(CHECKOUT / "run"):
        pytest.skip("another account can not reach this checkout or an interpreter of this version")
    os.chown(root, uid, uid)
    process = subprocess.run(
        [interpreter, "-c", USER, str(root)],
        input="",
        capture_output=True,
        text=True,
        check=False,
        user=uid,
        group=uid,
        extra_groups=[],
        env={"PYTHONPATH": os.pathsep.join([str(CHECKOUT), sysconfig.get_path("platlib")]), "HOME": str(root)},
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["started"] == [True, True]
    assert (root / "pg/data").stat().st_uid == uid


def interpreter_for_all() -> str | None:
    """A Python of our version that every account can run: ours, unless it lives in somebody's home."""
    for candidate in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        if Path(candidate).exists() and not privileges.closed_to_others(Path(candidate).resolve()):
            return candidate
    return None


# --- Valkey ---------------------------------------------------------------------------------------------------------


async def test_valkey_survives_a_kill_with_its_data_and_stops_when_left(root: Path) -> None:
    server = Valkey(root, die_with_parent=True)
    url = await server.start()
    try:
        with redis.Redis.from_url(url) as client:
            client.config_set("appendfsync", "always")
            assert client.incr("kept") == 1
        os.kill(server.pid or 0, signal.SIGKILL)
        assert await server.start() == url
        with redis.Redis.from_url(url) as client:
            assert client.incr("kept") == 2
    finally:
        await server.stop(force=True)
    assert server.pid is None
    with pytest.raises(redis.ConnectionError), redis.Redis.from_url(url) as client:
        client.ping()


async def test_valkey_listens_on_its_socket_only(root: Path) -> None:
    async with Valkey(root, die_with_parent=True) as server, asyncio.timeout(5):
        with redis.Redis.from_url(server.url) as client:
            assert client.config_get("port") == {"port": "0"}
        assert server.socket_path.stat().st_mode & 0o777 == 0o700
