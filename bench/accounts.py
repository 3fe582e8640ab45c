"""Accounts at the simulated platforms, and the channels that hold them, as an installation would load them."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bench.demo.configuration import channel_sections
from channels.contract import Channel
from channels.simulator.credentials import KEY_MODULES, Account, make_credentials
from gateway import config
from gateway.installation import load_channels

NOWHERE = "http://127.0.0.1:9"
# Of each channel, how a payment begins with one request to the platform.
METHODS = {"wechatpay": "native", "alipay": "qr", "unionpay": "qr"}


class Accounts(msgspec.Struct, frozen=True):
    """One merchant's accounts: their files and their channels, by the channel's name."""

    files: Mapping[str, Account]
    channels: Mapping[str, Channel]

    def sections(self, url: str) -> str:
        """The channels' part of a configuration, with all their platforms at this address."""
        return _toml(self.files, url)


def possible() -> tuple[str, ...]:
    """The channels that both have a simulated platform and can be installed."""
    known = {field.name for field in msgspec.structs.fields(config.Channels)}
    return tuple(name for name in KEY_MODULES if name in known)


def make_accounts(folder: Path, merchants: Sequence[str], channels: Sequence[str]) -> dict[str, Accounts]:
    """Make the keys of platforms and merchants in `folder`, and load the channels."""
    made = make_credentials(folder, merchants, channels)
    return {name: Accounts(files, _load(folder / f"{name}.toml", files)) for name, files in made.items()}


def _toml(files: Mapping[str, Account], url: str) -> str:
    return "".join(_section(name, fields) for name, fields in channel_sections(files, url).items())


def _section(name: str, fields: Mapping[str, object]) -> str:
    lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in fields.items()]  # JSON's are TOML's too
    return "\n".join([f"[{name}]", *lines]) + "\n"


def _load(path: Path, files: Mapping[str, Account]) -> dict[str, Channel]:
    path.write_text(_toml(files, NOWHERE))
    loaded = load_channels(config.load(path, {}).channels, int(time.time()))
    return {name: each.channel for name, each in loaded.items()}
