"""`python -m gateway.embedded ROOT`: stop servers that a killed process left running, unless somebody uses them."""

import asyncio
import sys
from pathlib import Path

from gateway.embedded import EmbeddedError, Postgres, Valkey


async def stop_unused(root: Path) -> list[str]:
    """Returns a sentence for each server that is still running."""
    servers = [Postgres(root), Valkey(root)]
    for server in servers:
        await server.stop()
    return [
        f"{server.name} (pid {server.pid}) in {root} is in use; stop what uses it" for server in servers if server.pid
    ]


def main() -> int:
    try:
        still_used = asyncio.run(stop_unused(Path(sys.argv[1])))
    except EmbeddedError as error:
        still_used = [str(error)]
    for sentence in still_used:
        sys.stderr.write(f"{sentence}\n")
    return 1 if still_used else 0


if __name__ == "__main__":
    sys.exit(main())
