"""`python -m channels.simulator`: run the simulator, or make credentials for it."""

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

import msgspec
import uvloop

from channels.simulator.credentials import make_credentials
from channels.simulator.faults import Faults
from channels.simulator.payers import Payers
from channels.simulator.server import Settings, Simulator


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m channels.simulator", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("serve", "credentials"), default="serve")
    parser.add_argument("--dir", type=Path, required=True, help="keys, merchants and the ledger")
    parser.add_argument("--merchant", nargs="+", default=[], metavar="NAME", help="make what is missing for these")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--time-scale", type=float, default=1.0, help="0.01: 15 s between retries become 0.15 s")
    parser.add_argument("--pay-rate", type=float, default=Payers().rate)
    parser.add_argument("--pay-after-s", default="0.2:3.0", metavar="MIN:MAX")
    parser.add_argument(
        "--error-rate", type=float, default=0.0, help="500s, half of them after the request was executed"
    )
    for name, default in msgspec.to_builtins(Faults()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=default, dest=f"fault_{name}")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    faults = {name: getattr(options, f"fault_{name}") for name in Faults.__struct_fields__}
    faults["error_before"] += options.error_rate / 2
    faults["error_after"] += options.error_rate / 2
    after_min, _, after_max = options.pay_after_s.partition(":")
    payers = {"rate": options.pay_rate, "after_min_s": float(after_min), "after_max_s": float(after_max or after_min)}
    return Settings(
        folder=options.dir.resolve(),
        seed=options.seed,
        port=options.port,
        time_scale=options.time_scale,
        faults=msgspec.convert(faults, Faults),
        payers=msgspec.convert(payers, Payers),
    )


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    simulator = Simulator(settings)
    url = await simulator.start()
    print(json.dumps({"url": url}), flush=True)
    await stop.wait()
    await simulator.stop()


def main() -> None:
    """Read the command line and do what it says."""
    options = _arguments().parse_args()
    if options.command == "credentials" or options.merchant:
        made = make_credentials(options.dir, options.merchant)
    if options.command == "credentials":
        print(json.dumps({name: files.section() for name, files in made.items()}))
        return
    try:
        settings = _settings(options)
        uvloop.run(_serve(settings))
    except (ValueError, FileNotFoundError, BlockingIOError) as error:
        sys.exit(f"simulator: {error}")


if __name__ == "__main__":
    main()
