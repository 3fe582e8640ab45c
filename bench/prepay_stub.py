"""WeChat Pay's prepays as a process of its own (`python -m bench.prepay_stub DIRECTORY`), at next to no cost."""

import asyncio
import sys
from pathlib import Path

import uvloop

from bench.channel_stub import ChannelStub
from bench.serving import Exchange, announce


async def _serve(directory: Path) -> None:
    stub = ChannelStub(directory)
    server = await asyncio.get_running_loop().create_server(lambda: Exchange(stub.answer), "127.0.0.1", 0)
    announce(server)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(Path(sys.argv[1])))
