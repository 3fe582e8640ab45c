"""Accounts at the simulated platforms: key files for a merchant, and the sections of a configuration that name them.

A merchant's files differ by platform: each has `merchant` (as the simulator names the account), `account` (as our
channel does) and `section()` (the fields of `[channels.X]`, without addresses).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from channels.simulator import alipay_keys, unionpay_keys, wechat_keys
from channels.simulator.key_files import MERCHANTS_DIR


class Account(Protocol):
    """One merchant's files at one platform."""

    @property
    def merchant(self) -> str: ...

    @property
    def account(self) -> str: ...

    def section(self) -> dict[str, object]: ...


class KeyModule(Protocol):
    """What each platform's `*_keys.py` offers."""

    def make_platform(self, folder: Path) -> None: ...

    def make_merchant(self, folder: Path, name: str) -> Any: ...


KEY_MODULES: dict[str, KeyModule] = {"wechatpay": wechat_keys, "alipay": alipay_keys, "unionpay": unionpay_keys}


def make_credentials(
    folder: Path, merchants: Sequence[str], channels: Sequence[str] = tuple(KEY_MODULES)
) -> dict[str, dict[str, Any]]:
    """Make what is missing for these merchants at these platforms: by merchant, by channel, where it stands.

    Args:
        folder: made if it does not exist. What exists is kept.
        merchants: names of letters, digits, `-` and `_`.

    Raises:
        ValueError: a name that is none.
    """
    folder = folder.resolve()
    (folder / MERCHANTS_DIR).mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in merchants:
        if not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"merchant {name!r}: letters, digits, - and _ only")
    for channel in channels:
        KEY_MODULES[channel].make_platform(folder)
    return {
        name: {channel: KEY_MODULES[channel].make_merchant(folder, name) for channel in channels} for name in merchants
    }
