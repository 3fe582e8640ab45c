"""Who takes part: our merchant, another one, and an impostor of each platform."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.accounts import Accounts, make_accounts
from channels.simulator.credentials import KEY_MODULES
from channels.simulator.key_files import MERCHANTS_DIR

MERCHANT, STRANGER = "fuzz", "stranger"


class Parties(NamedTuple):
    """Ours, the other merchant at the same platforms, and where the keys of platforms and impostors are."""

    ours: Accounts
    stranger: Accounts
    folder: Path
    impostor: Path


def make_parties(directory: Path, channels: Sequence[str]) -> Parties:
    """Make everybody's keys, in `directory`."""
    folder, impostor = directory / "platforms", directory / "impostor"
    made = make_accounts(folder, (MERCHANT, STRANGER), channels)
    _make_impostor(folder, impostor, channels)
    return Parties(made[MERCHANT], made[STRANGER], folder, impostor)


def _make_impostor(folder: Path, impostor: Path, channels: Sequence[str]) -> None:
    """A platform with the same merchants under the same names, and keys of its own. Its key ids are the true ones."""
    impostor.mkdir(parents=True, mode=0o700)
    shutil.copytree(folder / MERCHANTS_DIR, impostor / MERCHANTS_DIR)
    for channel in channels:
        KEY_MODULES[channel].make_platform(impostor)
    for named in folder.glob("*.json"):
        shutil.copy(named, impostor / named.name)
