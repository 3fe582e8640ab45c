"""`python -m channels.simulator`: run the simulator, make accounts for it, or steer one that runs.

`./run sim serve`, `./run sim faults alipay drop=0.3`, `./run sim pay OUT_TRADE_NO`, `./run sim trades`.
"""

import argparse
import asyncio
import json
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from channels.simulator import cashier
from channels.simulator.configuration import CHECKOUT, write_configuration
from channels.simulator.credentials import KEY_MODULES, Account, make_credentials
from channels.simulator.payers import Payers
from channels.simulator.server import REFUND_AFTER_S, Settings, Simulator

PORT = 9800
ANSWER_WITHIN_S = 10.0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="run sim", description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    serve = verbs.add_parser("serve", help="run the simulated platforms")
    credentials = verbs.add_parser("credentials", help="make accounts; prints the sections of a configuration as JSON")
    for each in (serve, credentials):
        each.add_argument(
            "--dir", type=Path, default=CHECKOUT / "var" / "simulator", help="keys, merchants and the ledger"
        )
        each.add_argument("--merchant", nargs="+", default=[], metavar="NAME", help="make what is missing for these")
        each.add_argument("--channels", nargs="+", default=list(KEY_MODULES), choices=list(KEY_MODULES))
    serve.add_argument("--port", type=int, default=PORT, help=f"0: any free one ({PORT})")
    serve.add_argument("--seed", type=int, default=1)
    serve.add_argument("--time-scale", type=float, default=1.0, help="0.01: 15 s between retries become 0.15 s")
    serve.add_argument("--pay-rate", type=float, default=Payers().rate)
    serve.add_argument("--pay-after-s", default="0.2:3.0", metavar="MIN:MAX")
    serve.add_argument("--pay-at-cashier", action="store_true", help="payers pay once the cashier's page was opened")
    serve.add_argument("--refund-after-s", type=float, default=REFUND_AFTER_S, help="until a refund settles")
    serve.add_argument("--error-rate", type=float, default=0.0, help="500s, half of them after it was executed")
    serve.add_argument("--fault", nargs="+", default=[], metavar="[CHANNEL.]NAME=SHARE", help="of one platform or all")
    faults = verbs.add_parser("faults", help="show the faults of a running simulator, or change them")
    faults.add_argument("changes", nargs="*", metavar="[CHANNEL] NAME=SHARE", help="alipay drop=0.3 delay_s=2")
    pay = verbs.add_parser("pay", help="pay a trade now")
    pay.add_argument("out_trade_no")
    pay.add_argument(
        "--late", action="store_true", help="although it was closed or has expired, as if under way before"
    )
    trades = verbs.add_parser("trades", help="what there is")
    for each in (faults, pay, trades):
        each.add_argument("--url", default=f"http://127.0.0.1:{PORT}", help="of the simulator")
    return parser


# --- serve -----------------------------------------------------------------------------------------------------------


def _settings(options: argparse.Namespace) -> Settings:
    after_min, _, after_max = options.pay_after_s.partition(":")
    payers = {
        "rate": options.pay_rate,
        "after_min_s": float(after_min),
        "after_max_s": float(after_max or after_min),
        "at_cashier": options.pay_at_cashier,
    }
    return Settings(
        folder=options.dir.resolve(),
        seed=options.seed,
        port=options.port,
        time_scale=options.time_scale,
        payers=msgspec.convert(payers, Payers),
        refund_after_s=options.refund_after_s,
    )


def _shares(changes: Sequence[str], error_rate: float = 0.0) -> dict[str, Any]:
    """`drop=0.3` for all, `alipay.drop=0.3` for one: as the steering takes it."""
    shares: dict[str, Any] = {}
    for change in changes:
        name, equals, share = change.partition("=")
        if not equals:
            raise ValueError(f"{change!r}: expected NAME=SHARE")
        channel, dot, fault = name.partition(".")
        of = shares.setdefault(channel, {}) if dot else shares
        of[fault if dot else name] = float(share)
    if error_rate:
        for name in ("error_before", "error_after"):
            shares[name] = shares.get(name, 0.0) + error_rate / 2
    return shares


async def _serve(settings: Settings, shares: Mapping[str, Any], accounts: Mapping[str, Mapping[str, Account]]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    simulator = Simulator(settings)
    simulator.change_faults(shares)
    url = await simulator.start()
    print(json.dumps({"url": url}), flush=True)
    for name, each in accounts.items():
        write_configuration(settings.folder / f"{name}.toml", url, each)
        print(f"{name}: ./run serve --config {settings.folder / f'{name}.toml'}", file=sys.stderr)
    print(f"payers: {url}{cashier.PATH}", file=sys.stderr)
    await stop.wait()
    await simulator.stop()


# --- steer -----------------------------------------------------------------------------------------------------------


def _steer(options: argparse.Namespace) -> Any:
    if options.verb == "faults":
        first = options.changes[:1]
        channel = first[0] if first and "=" not in first[0] else ""
        shares = _shares(options.changes[1:] if channel else options.changes)
        return _ask(options.url, "/_faults", {channel: shares} if channel else shares or None)
    trades = _ask(options.url, "/_sim/trades")
    if options.verb == "trades":
        return trades
    found = [trade for trade in trades if trade["out_trade_no"] == options.out_trade_no]
    if not found:
        raise ValueError(f"no trade {options.out_trade_no}")
    order = {**{name: found[0][name] for name in ("channel", "merchant", "out_trade_no")}, "late": options.late}
    return _ask(options.url, "/_sim/pay", order)


def _ask(url: str, path: str, order: object | None = None) -> Any:
    body = None if order is None else json.dumps(order).encode()
    request = urllib.request.Request(url + path, data=body, headers={"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S) as answer:  # noqa: S310 - our own simulator
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise ValueError(error.read().decode("utf-8", "replace")) from None
    except urllib.error.URLError as error:
        raise ValueError(f"no simulator at {url}: {error.reason}; start one with `./run sim serve`") from None


def main() -> None:
    """Read the command line and do what it says."""
    options = _arguments().parse_args()
    try:
        if options.verb in ("serve", "credentials"):
            made = make_credentials(options.dir, options.merchant, options.channels)
            if options.verb == "serve":
                uvloop.run(_serve(_settings(options), _shares(options.fault, options.error_rate), made))
                return
            sections = {n: {c: files.section() for c, files in each.items()} for n, each in made.items()}
            print(json.dumps(sections))
            return
        print(json.dumps(_steer(options), indent=2, ensure_ascii=False))
    except (ValueError, FileNotFoundError, BlockingIOError, msgspec.ValidationError) as error:
        sys.exit(f"simulator: {error}")


if __name__ == "__main__":
    main()
