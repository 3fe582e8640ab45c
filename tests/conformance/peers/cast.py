"""Who plays: each client written by others with its environment, its driver, its platform and the keys it is given."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.conformance.peers import alipay_play, environments, unionpay_play, wechatpay_play
from tests.conformance.peers.play import Play
from tests.conformance.peers.stage import PEERS, Stage

DRIVERS: Final = Path(__file__).resolve().parent / "drivers"


class Peer(msgspec.Struct, frozen=True):
    """One client, in one of its modes. `prepare` makes its environment and returns the command that runs a driver."""

    name: str
    platform: str
    prepare: Callable[[], list[str]]
    driver: str
    mode: str = ""

    def argv(self, command: list[str]) -> list[str]:
        """The command that runs its driver."""
        return [*command, str(DRIVERS / self.driver)]


def _python(name: str) -> Callable[[], list[str]]:
    return lambda: environments.python(name)


_WECHATPAYV3: Final = (_python("wechatpayv3"), "drive_wechatpayv3.py")
_AXIOS: Final = (environments.node, "drive_wechatpay_axios_plugin.js")
_PYTHON_ALIPAY_SDK: Final = (_python("python-alipay-sdk"), "drive_python_alipay_sdk.py")
_ALIPAY_SDK_PYTHON: Final = (_python("alipay-sdk-python"), "drive_alipay_sdk_python.py")
_ALIPAY_SDK: Final = (environments.node, "drive_alipay_sdk.js")

CAST: Final = (
    Peer("wechatpayv3, public key", "wechatpay", *_WECHATPAYV3, "public_key"),
    Peer("wechatpayv3, certificates", "wechatpay", *_WECHATPAYV3, "certificate"),
    Peer("wechatpay-axios-plugin, public key", "wechatpay", *_AXIOS, "public_key"),
    Peer("wechatpay-axios-plugin, certificates", "wechatpay", *_AXIOS, "certificate"),
    Peer("python-alipay-sdk, public key", "alipay", *_PYTHON_ALIPAY_SDK, "public_key"),
    Peer("python-alipay-sdk, certificates", "alipay", *_PYTHON_ALIPAY_SDK, "certificate"),
    Peer("alipay-sdk-python, public key", "alipay", *_ALIPAY_SDK_PYTHON, "public_key"),
    Peer("alipay-sdk, public key", "alipay", *_ALIPAY_SDK, "public_key"),
    Peer("alipay-sdk, certificates", "alipay", *_ALIPAY_SDK, "certificate"),
    Peer("openssl", "unionpay", environments.openssl, "drive_openssl.py"),
)
PLAYS: Final[Mapping[str, Callable[[Play], Awaitable[None]]]] = {
    "wechatpay": wechatpay_play.play,
    "alipay": alipay_play.play,
    "unionpay": unionpay_play.play,
}


def account(stage: Stage, peer: Peer) -> dict[str, Any]:
    """The merchant account under which it is a client: the section of a configuration, with what its files hold."""
    files: Any = stage.accounts[PEERS][peer.platform]
    certified = peer.platform == "alipay" and peer.mode == "certificate"
    section = files.certified_section() if certified else files.section()
    held = {
        name.removesuffix("_file"): Path(str(path)).read_text("utf-8")
        for name, path in section.items()
        if name.endswith("_file")
    }
    return {**section, **held, "base_url": stage.simulator_url, "mode": peer.mode}
