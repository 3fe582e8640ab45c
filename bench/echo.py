"""The ceiling of our HTTP front: a bare aiohttp `web.Server` on uvloop that decodes a JSON body and says it back.
Nothing is kept.

`create` is compared with this, under the same load: what is missing to 1 is the price of everything a payment
center adds.
"""

import asyncio
import gc

import msgspec
import uvloop
from aiohttp import web

from bench.serving import announce


async def echo(request: web.BaseRequest) -> web.Response:
    """The body, decoded and encoded again."""
    order = msgspec.json.decode(await request.read())
    return web.Response(body=msgspec.json.encode(order), content_type="application/json")


async def serve() -> None:
    """Serve on a free port until the process is ended."""
    server = await asyncio.get_running_loop().create_server(web.Server(echo, access_log=None), "127.0.0.1", 0)
    announce(server)
    await server.serve_forever()


if __name__ == "__main__":
    gc.freeze()
    uvloop.run(serve())
