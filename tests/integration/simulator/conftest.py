"""WeChat Pay's key material made once, and for every test a folder of its own without a history."""

import shutil
from pathlib import Path

import pytest

from channels.simulator.credentials import make_credentials
from channels.simulator.wechat_keys import MerchantFiles
from channels.wechatpay import WeChatPay
from tests.integration.simulator.wechat_accounts import channel_of


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, MerchantFiles]]:
    """Key material of one platform and two merchants, made once."""
    folder = tmp_path_factory.mktemp("wechat-keys")
    made = make_credentials(folder, ["holdfast", "control"], ["wechatpay"])
    return folder, {name: files["wechatpay"] for name, files in made.items()}


@pytest.fixture
def folder(keys: tuple[Path, dict[str, MerchantFiles]], tmp_path: Path) -> Path:
    """A simulator's folder with those keys and no history."""
    return Path(shutil.copytree(keys[0], tmp_path / "simulator"))


@pytest.fixture
def channel(keys: tuple[Path, dict[str, MerchantFiles]]) -> WeChatPay:
    return channel_of(keys[1]["holdfast"])


@pytest.fixture
def control(keys: tuple[Path, dict[str, MerchantFiles]]) -> WeChatPay:
    return channel_of(keys[1]["control"])
