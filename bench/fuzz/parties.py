"""Who takes part: our merchant, another one, and an impostor of each platform."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.accounts import Accounts, make_accounts
from channels.simulator.credentials import KEY_MODULES
from channels.simulator.key_files import MERCHANTS_DIR
from channels.simulator.platform import Platform
from channels.simulator.platforms import load_platforms

MERCHANT, STRANGER = "fuzz", "stranger"
SEED = 1  # of the platforms' faults, of which there are none


class Parties(NamedTuple):
    """Ours, another merchant at the same platforms, the platforms and an impostor of each, with the folders of keys."""

    ours: Accounts
    stranger: Accounts
    folder: Path
    platforms: Mapping[str, Platform]
    impostors_folder: Path
    impostors: Mapping[str, Platform]


def make_parties(directory: Path, channels: Sequence[str]) -> Parties:
    """Make everybody's keys, in `directory`."""
    folder, impostor = directory / "platforms", directory / "impostor"
    made = make_accounts(folder, (MERCHANT, STRANGER), channels)
    _make_impostor(folder, impostor, channels)
    return Parties(
        ours=made[MERCHANT],
        stranger=made[STRANGER],
        folder=folder,
        platforms=load_platforms(folder, SEED),
        impostors_folder=impostor,
        impostors=load_platforms(impostor, SEED),
    )


def _make_impostor(folder: Path, impostor: Path, channels: Sequence[str]) -> None:
    """A platform with the same merchants under the same names, and keys of its own. Its key ids are the true ones."""
    impostor.mkdir(parents=True, mode=0o700)
    shutil.copytree(folder / MERCHANTS_DIR, impostor / MERCHANTS_DIR)
    for channel in channels:
        KEY_MODULES[channel].make_platform(impostor)
    for named in folder.glob("*.json"):
        shutil.copy(named, impostor / named.name)
