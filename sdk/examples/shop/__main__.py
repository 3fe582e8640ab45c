"""`python -m examples.shop`: the shop as a process. The first SIGTERM closes the till, the second the shop."""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from aiohttp import web

from examples.shop.browser import Browser
from examples.shop.checkout import Checkout
from examples.shop.counter import Counter
from examples.shop.customers import Customers, Mix, parse_mix, serve_customers
from examples.shop.ledger import Ledger
from examples.shop.watcher import Watcher
from holdfast_client import Holdfast, Retry


def main() -> int:
    """Run until told to stop twice."""
    arguments = _arguments().parse_args()
    missing = [name for name in ("HOLDFAST_API_KEY", "HOLDFAST_WEBHOOK_SECRET") if not os.environ.get(name)]
    if missing:
        print(f"shop: set {' and '.join(missing)} (`app add NAME --webhook URL` prints both)", file=sys.stderr)
        return 2
    asyncio.run(_run(arguments))
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shop", description="a demo shop; key and secret come from the environment")
    parser.add_argument("--gateway", required=True, help="http://host:port")
    parser.add_argument("--ledger", required=True, type=Path, help="the shop's SQLite file")
    parser.add_argument("--port", type=int, default=0, help="where webhooks come in (127.0.0.1)")
    parser.add_argument("--rate", type=float, default=1.0, help="customers a second")
    parser.add_argument("--seconds", type=float, default=0.0, help="for how long they come; 0: none do")
    parser.add_argument("--start-at", type=float, default=0.0, help="unix seconds of the first; default now")
    parser.add_argument("--seed", type=int, default=1, help="decides what they buy and how they pay")
    parser.add_argument("--subject-prefix", default="shop", help="of every order's number and subject")
    parser.add_argument(
        "--pay-with",
        type=_mix,
        default="wechatpay.native",
        metavar="CHANNEL.METHOD[:WEIGHT],...",
        help="the ways customers pay, and how many choose each: wechatpay.native:2,alipay.page",
    )
    parser.add_argument("--fickle", type=float, default=0.0, help="share of customers who then pay another way (0)")
    parser.add_argument("--scan-at", default="", help="where customers take codes they scan: a simulator's /cashier")
    parser.add_argument("--return-to", default="", help="where the cashier sends customers back to: http://.../orders")
    parser.add_argument("--ask-after-s", type=float, default=10.0, help="ask about an order silent for this long")
    return parser


def _mix(text: str) -> Mix:
    try:
        return parse_mix(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


async def _run(arguments: argparse.Namespace) -> None:
    till_closed, shop_closed = _signals()
    ledger = Ledger(arguments.ledger)
    # A gateway that is away comes back sooner if hundreds of waiting customers do not knock twenty times a second.
    retry = Retry(deadline_s=30.0, first_pause_s=0.2, pause_max_s=2.0)
    async with (
        Holdfast(arguments.gateway, os.environ["HOLDFAST_API_KEY"], retry=retry) as holdfast,
        Browser(arguments.scan_at) as browser,
    ):
        checkout = Checkout(holdfast, ledger, browser.receive, arguments.return_to)
        runner = web.AppRunner(
            Counter(ledger, os.environ["HOLDFAST_WEBHOOK_SECRET"]).application(), access_log=None, shutdown_timeout=1.0
        )
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", arguments.port).start()
        print(json.dumps({"ready": f"http://127.0.0.1:{runner.addresses[0][1]}"}), flush=True)
        work = [
            asyncio.create_task(serve_customers(_customers(arguments), checkout, arguments.ask_after_s, till_closed)),
            asyncio.create_task(Watcher(checkout, arguments.ask_after_s).run()),
        ]
        await _until_closed(shop_closed, work)
        await runner.cleanup()
    await ledger.close()


def _customers(arguments: argparse.Namespace) -> Customers:
    return Customers(
        rate=arguments.rate,
        seconds=arguments.seconds,
        seed=arguments.seed,
        prefix=arguments.subject_prefix,
        start_at=arguments.start_at or time.time(),
        mix=arguments.pay_with,
        fickle=arguments.fickle,
    )


async def _until_closed(shop_closed: asyncio.Event, work: list[asyncio.Task[None]]) -> None:
    """Wait for the second signal; a part of the shop that fails ends it loudly instead of leaving it half alive."""
    closing = asyncio.create_task(shop_closed.wait())
    pending: set[asyncio.Task[None] | asyncio.Task[bool]] = {closing, *work}
    while not closing.done():
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)


def _signals() -> tuple[asyncio.Event, asyncio.Event]:
    till_closed, shop_closed = asyncio.Event(), asyncio.Event()

    def told() -> None:
        (shop_closed if till_closed.is_set() else till_closed).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    return till_closed, shop_closed


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    sys.exit(main())
