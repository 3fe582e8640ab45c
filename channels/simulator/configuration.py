"""A gateway's configuration file for one merchant at the simulated platforms."""

import json
from collections.abc import Mapping
from pathlib import Path

from channels.simulator.credentials import Account
from channels.simulator.key_files import write

CHECKOUT = Path(__file__).resolve().parents[2]
ADDRESSES = {"unionpay": ("base_url", "file_url")}  # of the others it is base_url alone


def write_configuration(path: Path, url: str, accounts: Mapping[str, Account]) -> None:
    """Write what `serve --config` needs: the accounts by channel, and the databases of the checkout."""
    lines = ["[embedded]", f"root = {json.dumps(str(CHECKOUT / 'var'))}"]
    for channel, account in accounts.items():
        fields = {**dict.fromkeys(ADDRESSES.get(channel, ("base_url",)), url), **account.section()}
        # A JSON value of these kinds (text, number, list) is a TOML value too.
        lines += ["", f"[channels.{channel}]", *(f"{name} = {json.dumps(value)}" for name, value in fields.items())]
    write(path, ("\n".join(lines) + "\n").encode())
