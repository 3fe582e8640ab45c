"""The runner's end of the dialogue with one peer: a process that does what it is told with a client written by others.

A line of JSON each way: `{"do": VERB, ...}` is answered `{"answer": VALUE}`, or `{"raised": TEXT}` when the client
threw something. The first line tells the driver its account.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.conformance.peers.environments import NODE_MODULES

ANSWER_WITHIN_S: Final = 20.0
LINE_BYTES_MAX: Final = 1 << 22  # a day's bill is a line
LAST_WORDS_CHARS: Final = 2000


class Raised(Exception):
    """The client threw this."""


class Silent(Exception):
    """The driver ended, or took too long."""


class Driver:
    """One running driver; ended with the block, whatever happens in it."""

    def __init__(self, argv: list[str], account: Mapping[str, Any], log: Path) -> None:
        self._argv = argv
        self._account = account
        self._log = log
        self._process: asyncio.subprocess.Process
        self._silent = ""  # why it is not listened to any more: a late answer would be taken for another's

    async def __aenter__(self) -> "Driver":
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=_environment(self._log.parent),
                start_new_session=True,  # a Ctrl-C in the terminal is ours, and we end it
                limit=LINE_BYTES_MAX,
            )
        self._tell(self._account)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def do(self, verb: str, **about: Any) -> Any:
        """What the client answered.

        Raises:
            Raised: it threw something.
            Silent: nothing came, or nothing that can be understood.
        """
        assert self._process.stdout is not None
        if self._silent:
            raise Silent(self._silent)
        self._tell({"do": verb, **about})
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), ANSWER_WITHIN_S)
            said = json.loads(line)
        except (TimeoutError, ValueError) as error:  # ValueError: it ended, its line is no JSON, or it is too long
            self._silent = f"{type(error).__name__}: {error}; it last said: {self._last_words()}"
            raise Silent(self._silent) from error
        if "raised" in said:
            raise Raised(said["raised"])
        return said["answer"]

    def _tell(self, value: object) -> None:
        """One line is less than a pipe holds, and it is read before the next one comes."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")

    def _last_words(self) -> str:
        return self._log.read_text("utf-8", "replace")[-LAST_WORDS_CHARS:].strip() or "nothing"


def _environment(folder: Path) -> dict[str, str]:
    """Ours, without what would turn a client's requests or imports elsewhere, in the platforms' time."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith(("PYTHON", "NODE_", "HOLDFAST_"))
    }
    # TZ: Beijing's time, without a need for a database of zones. TMPDIR: what it leaves goes with the stage.
    return {**kept, "TZ": "CST-8", "PYTHONUTF8": "1", "TMPDIR": str(folder), "PEERS_HOME": str(NODE_MODULES.parent)}
