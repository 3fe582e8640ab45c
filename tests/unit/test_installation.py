"""From a section of the configuration to a channel; what is wrong with its keys is said at start."""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import fields
from structlog.testing import capture_logs

from channels.alipay_wire import QR_PRODUCTS
from channels.contract import Flow, Request, Stamp, Unknown
from channels.errors import KeyMaterialError
from channels.signing import DatedFile
from gateway import installation
from gateway.config import Channels, load
from gateway.config.sections import Alipay
from gateway.installation import each_certificate, install, load_channels
from gateway.metrics import Metrics
from gateway.stepping import Stepper
from tests.unit.key_folder import ALIPAY, ALIPAY_CERTIFICATES, ALL, UNIONPAY, WECHATPAY, date_in, dated, fill

NOW_S = int(time.time())
CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path)


def channels(folder: Path, toml: str) -> Channels:
    path = folder / "holdfast.toml"
    path.write_text(toml)
    return load(path, {}).channels


def test_each_section_becomes_a_channel_of_its_name_and_account(folder: Path) -> None:
    loaded = load_channels(channels(folder, ALL), NOW_S)
    assert {name: each.channel.name for name, each in loaded.items()} == {name: name for name in loaded}
    assert {name: each.channel.account for name, each in loaded.items()} == {
        "wechatpay": "1900000001/wx1",
        "alipay": "2021000000000000/2088000000000000",
        "unionpay": "777290058110048",
    }


def test_every_channel_that_can_be_configured_can_be_installed() -> None:
    assert {field.name for field in fields(Channels)} == installation._LOADERS.keys()
    product = next(field for field in fields(Alipay) if field.name == "qr_product")
    assert product.type.__args__ == QR_PRODUCTS


def test_it_says_which_files_the_keys_are_in_and_until_when_they_are_good(folder: Path) -> None:
    loaded = load_channels(channels(folder, WECHATPAY + ALIPAY_CERTIFICATES + UNIONPAY), NOW_S)
    ends = {name: {Path(file.where).name: days_left(file) for file in each.files} for name, each in loaded.items()}
    assert ends["wechatpay"] == {"merchant.key": None, "v3.key": None, "merchant.cer": 400, "platform.cer": 400}
    two = {"two.cer": 400, "two.cer (2)": 800}
    assert ends["alipay"] == {"merchant.key": None, "merchant.cer": 400, "root.cer": 4000, **two}
    assert ends["unionpay"] == {"merchant.pfx": 400, "root.cer": 4000, "middle.cer": 4000}


def days_left(file: DatedFile) -> int | None:
    return None if file.not_after_s is None else round((file.not_after_s - NOW_S) / 86_400)


def test_an_expired_certificate_is_refused_with_its_path_and_date_for_each_channel_at_once(folder: Path) -> None:
    for name in ("platform.cer", "middle.cer", "two.cer"):
        (folder / name).write_bytes(dated(name, -2))
    with pytest.raises(KeyMaterialError) as refused:
        load_channels(channels(folder, WECHATPAY + ALIPAY_CERTIFICATES + UNIONPAY), NOW_S)
    assert str(refused.value).splitlines() == [
        f"channels.wechatpay: {folder}/platform.cer: the certificate expired on {date_in(-2)}",
        f"channels.alipay: {folder}/two.cer: the certificate expired on {date_in(-2)}",
        f"channels.unionpay: {folder}/middle.cer: the certificate expired on {date_in(-2)}",
    ]


@pytest.mark.parametrize(
    ("toml", "file", "content", "message"),
    [
        (
            WECHATPAY,
            "merchant.key",
            b"no key",
            "wechatpay: .*/merchant.key: not an unencrypted private key in PEM form",
        ),
        (WECHATPAY, "platform.cer", b"", "wechatpay: .*/platform.cer: not a certificate in PEM form"),
        (ALIPAY, "alipay.pub", b"-----", "alipay: .*/alipay.pub: not a public key in PEM form"),
        (UNIONPAY, "merchant.pfx", b"0\x82", "unionpay: .*/merchant.pfx: not a PKCS#12 file, or the password is wrong"),
        (UNIONPAY, "middle.cer", b"\xff", "unionpay: .*/middle.cer: not a certificate in PEM form"),
        (
            UNIONPAY.replace("000000", "111111"),
            "v3.key",
            b"",
            "unionpay: .*/merchant.pfx: not a PKCS#12 file, or the pa",
        ),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(
    folder: Path, toml: str, file: str, content: bytes, message: str
) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(KeyMaterialError, match=f"^channels.{message}"):
        load_channels(channels(folder, toml), NOW_S)


def test_a_file_that_went_away_after_the_configuration_was_read_is_named(folder: Path) -> None:
    read = channels(folder, UNIONPAY)
    (folder / "root.cer").unlink()
    with pytest.raises(KeyMaterialError, match=r"^channels\.unionpay: can't read .*/root\.cer: No such file"):
        load_channels(read, NOW_S)


def test_a_file_may_hold_several_certificates(folder: Path) -> None:
    two = folder / "two.cer"
    assert list(each_certificate(two)) == [str(two), f"{two} (2)"]
    assert each_certificate(None) == {}
    (folder / "none").write_bytes(b"no certificate")
    assert each_certificate(folder / "none") == {str(folder / "none"): b"no certificate"}


def test_a_certificate_that_ends_within_a_month_is_warned_of_at_start(folder: Path) -> None:
    (folder / "platform.cer").write_bytes(dated("platform", 12.5))
    stepper = Stepper()
    with capture_logs() as logs:
        install(channels(folder, ALL), Metrics(), stepper)
    stepper.stop()
    (line,) = logs
    assert (line["event"], line["log_level"], line["channel"]) == ("key_file_expires", "warning", "wechatpay")
    assert (line["file"], line["days"]) == (str(folder / "platform.cer"), 12)


async def test_each_channel_may_be_sent_only_to_its_own_addresses(folder: Path) -> None:
    """What a channel's answer names can not send us to another channel, nor anywhere else."""
    home = {
        "https://api.mch.weixin.qq.com": "wechatpay",
        "https://openapi.alipay.com": "alipay",
        "http://dwbillcenter.alipay.com": "alipay",
        "https://dwbillcenter.alipay.com": "alipay",
        "https://gateway.95516.com": "unionpay",
        "https://filedownload.95516.com": "unionpay",
        "http://filedownload.95516.com": "nobody",
        "http://127.0.0.1": "nobody",
    }
    stepper = Stepper()
    for name, each in install(channels(folder, ALL), Metrics(), stepper).items():
        for origin, owner in home.items():
            # Not started: where it could go, it says so before a connection is made.
            outcome = await each.transport.run(partial(asking, origin), op="pay")
            assert outcome == Unknown(
                "the transport is stopped" if name == owner else f"not an address of this channel: {origin}/"
            )
    stepper.stop()


def asking(origin: str, stamp: Stamp) -> Flow[Unknown]:
    yield Request("GET", "/", {}, origin=origin)
    return Unknown("sent")


def test_serve_says_what_is_wrong_with_the_keys_in_a_sentence_and_exits_4(folder: Path, database_url: str) -> None:
    (folder / "middle.cer").write_bytes(dated("middle", -2))
    toml = f'[database]\nurl = "{database_url}"\nallow_unsafe = true\n[redis]\nurl = "off"\n[server]\nport = 0\n'
    channels(folder, toml + ALL)
    serve = [sys.executable, "-m", "gateway", "serve", "--config", str(folder / "holdfast.toml")]
    ended = subprocess.run(serve, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (4, "")
    assert ended.stderr.splitlines()[-1] == (
        f"channels.unionpay: {folder}/middle.cer: the certificate expired on {date_in(-2)}"
    )
    assert "Traceback" not in ended.stderr
