"""WeChat Pay's key material made once, and for every test a folder of its own without a history."""

import shutil
from pathlib import Path

import pytest

from channels.simulator.alipay_keys import MerchantFiles as AlipayFiles
from channels.simulator.credentials import make_credentials
from channels.simulator.unionpay_keys import MerchantFiles as UnionpayFiles
from channels.simulator.wechat_keys import MerchantFiles
from channels.unionpay import Credentials
from channels.wechatpay import WeChatPay
from tests.integration.simulator.unionpay_accounts import credentials_of
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


@pytest.fixture(scope="session")
def unionpay_keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, UnionpayFiles]]:
    """UnionPay's key material with two merchants, made once."""
    folder = tmp_path_factory.mktemp("unionpay-keys")
    made = make_credentials(folder, ["holdfast", "control"], ["unionpay"])
    return folder, {name: files["unionpay"] for name, files in made.items()}


@pytest.fixture
def unionpay_folder(unionpay_keys: tuple[Path, dict[str, UnionpayFiles]], tmp_path: Path) -> Path:
    """A simulator's folder with those keys and no history."""
    return Path(shutil.copytree(unionpay_keys[0], tmp_path / "simulator"))


@pytest.fixture(scope="session")
def unionpay_credentials(unionpay_keys: tuple[Path, dict[str, UnionpayFiles]]) -> dict[str, Credentials]:
    return {name: credentials_of(files) for name, files in unionpay_keys[1].items()}


@pytest.fixture(scope="session")
def alipay_keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, AlipayFiles]]:
    """Alipay's key material with two merchants, made once."""
    folder = tmp_path_factory.mktemp("alipay-keys")
    made = make_credentials(folder, ["holdfast", "control"], ["alipay"])
    return folder, {name: files["alipay"] for name, files in made.items()}


@pytest.fixture
def alipay_folder(alipay_keys: tuple[Path, dict[str, AlipayFiles]], tmp_path: Path) -> Path:
    """A simulator's folder with those keys and no history."""
    return Path(shutil.copytree(alipay_keys[0], tmp_path / "simulator"))


@pytest.fixture
def alipay_files(alipay_keys: tuple[Path, dict[str, AlipayFiles]]) -> AlipayFiles:
    return alipay_keys[1]["holdfast"]
