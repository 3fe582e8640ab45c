"""Accounts at the simulated platforms for the fuzz: ours, another merchant's, and an impostor of each platform."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bench.demo.configuration import channel_sections
from bench.fuzz.corpus import MERCHANT, STRANGER, make_impostor
from channels.contract import Channel
from channels.simulator.credentials import KEY_MODULES, Account, make_credentials
from gateway import config
from gateway.installation import load_channels

NOWHERE = "http://127.0.0.1:9"


class Accounts(msgspec.Struct, frozen=True):
    """What was made. `folders` are the platforms' keys and the impostor's, `files` our accounts by channel."""

    folders: tuple[Path, Path]
    files: Mapping[str, Account]
    ours: Mapping[str, Channel]
    strangers: Mapping[str, Channel]

    def sections(self, url: str) -> str:
        """Our channels' part of a configuration, with all their platforms at this address."""
        return _toml(self.files, url)


def possible() -> tuple[str, ...]:
    """The channels that both have a simulated platform and can be installed."""
    known = {field.name for field in msgspec.structs.fields(config.Channels)}
    return tuple(name for name in KEY_MODULES if name in known)


def make_accounts(directory: Path, channels: Sequence[str]) -> Accounts:
    """Make the keys, in `directory`, and the channels that use them."""
    folder, impostor = directory / "platforms", directory / "impostor"
    made = make_credentials(folder, (MERCHANT, STRANGER), channels)
    make_impostor(folder, impostor, channels)
    ours, strangers = (_load(directory / f"{name}.toml", made[name]) for name in (MERCHANT, STRANGER))
    return Accounts(folders=(folder, impostor), files=made[MERCHANT], ours=ours, strangers=strangers)


def _toml(files: Mapping[str, Account], url: str) -> str:
    return "".join(_section(name, fields) for name, fields in channel_sections(files, url).items())


def _section(name: str, fields: Mapping[str, object]) -> str:
    lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in fields.items()]  # JSON's are TOML's too
    return "\n".join([f"[{name}]", *lines]) + "\n"


def _load(path: Path, files: Mapping[str, Account]) -> dict[str, Channel]:
    path.write_text(_toml(files, NOWHERE))
    loaded = load_channels(config.load(path, {}).channels, int(time.time()))
    return {name: each.channel for name, each in loaded.items()}
