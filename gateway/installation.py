"""Installs the channels: from a section of the configuration to a channel with its keys, and how it is reached."""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from channels import alipay, alipay_keys, unionpay, unionpay_keys, wechatpay, wechatpay_keys
from channels.contract import Channel
from channels.errors import KeyMaterialError
from channels.signing import DatedFile
from gateway.config import Channels, ChannelSection
from gateway.config.sections import Alipay, UnionPay, WechatPay
from gateway.effect_runner import InstalledChannel
from gateway.metrics import Metrics
from gateway.pacing import Pace
from gateway.stepping import Stepper
from gateway.transport import Transport

QUEUE_MAX: Final = 10_000  # conversations that may wait for a channel
EXPIRES_SOON_S: Final = 30 * 86_400  # a new certificate takes a person some days

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

log = structlog.get_logger(__name__)


class Loaded(msgspec.Struct, frozen=True):
    """A channel with its keys: where it may be sent beside its `base_url`, and the files its keys are in."""

    channel: Channel
    origins: tuple[str, ...]
    files: tuple[DatedFile, ...]


def load_channel(name: str, section: ChannelSection, now_s: int) -> Loaded:
    """Read the keys and build the channel.

    Raises:
        KeyMaterialError: naming the channel, the field or file, and what is wrong with it.
    """
    try:
        return _LOADERS[name](section, now_s)
    except KeyMaterialError as error:
        raise KeyMaterialError(f"channels.{name}: {error}") from error
    except OSError as error:  # it could be read a moment ago, with the configuration
        raise KeyMaterialError(f"channels.{name}: can't read {error.filename}: {error.strerror}") from error


def load_channels(channels: Channels, now_s: int) -> dict[str, Loaded]:
    """All that are configured.

    Raises:
        KeyMaterialError: one line for each channel that can not be used.
    """
    loaded: dict[str, Loaded] = {}
    mistakes: list[str] = []
    for name, section in channels.installed().items():
        try:
            loaded[name] = load_channel(name, section, now_s)
        except KeyMaterialError as error:
            mistakes.append(str(error))
    if mistakes:
        raise KeyMaterialError("\n".join(mistakes))
    return loaded


def install(
    channels: Channels, metrics: Metrics, stepper: Stepper, clock: Callable[[], float] = time.time
) -> dict[str, InstalledChannel]:
    """The channels with their transports, which are still to be started.

    Raises:
        KeyMaterialError: as `load_channels`.
    """
    loaded = load_channels(channels, int(clock()))
    for name, each in loaded.items():
        _warn_of_expiry(name, each.files, int(clock()))
    return {
        name: InstalledChannel(
            loaded[name].channel,
            Transport(
                name,
                section.base_url,
                timeout_s=section.timeout_s,
                concurrency=section.concurrency,
                queue_max=QUEUE_MAX,
                metrics=metrics,
                origins=loaded[name].origins,
                pace=Pace(
                    section.queries_per_s, section.queries_burst, section.breaker_failures, section.breaker_pause_s
                ),
                stepper=stepper,
                clock=clock,
            ),
        )
        for name, section in channels.installed().items()
    }


def _warn_of_expiry(name: str, files: tuple[DatedFile, ...], now_s: int) -> None:
    for file in files:
        if file.not_after_s is not None and file.not_after_s - now_s < EXPIRES_SOON_S:
            days = (file.not_after_s - now_s) // 86_400
            log.warning("key_file_expires", channel=name, file=file.where, what=file.what, days=days)


# --- from a section's fields to a channel's arguments ---------------------------------------------------------------


def _wechatpay(section: WechatPay, now_s: int) -> Loaded:
    credentials = wechatpay_keys.load_credentials(
        mchid=section.mchid,
        appid=section.appid,
        merchant_serial=section.merchant_serial,
        private_key_pem=section.private_key.encode(),
        api_v3_key=section.api_v3_key.encode(),
        public_key_id=section.public_key_id or None,
        public_key_pem=section.public_key.encode() or None,
        platform_certificates_pem={str(path): path.read_bytes() for path in section.platform_certificates},
        merchant_certificate_pem=_content(section.merchant_certificate_file),
        paths=_paths(section),
        now_s=now_s,
    )
    return Loaded(wechatpay.WeChatPay(credentials), (), credentials.files)


def _alipay(section: Alipay, now_s: int) -> Loaded:
    credentials = alipay_keys.load_credentials(
        app_id=section.app_id,
        seller_id=section.seller_id,
        base_url=section.base_url,
        private_key_pem=section.private_key.encode(),
        public_key_pem=section.public_key.encode() or None,
        app_certificate_pem=_content(section.app_certificate_file),
        alipay_certificates_pem=each_certificate(section.alipay_certificate_file),
        root_certificates_pem=_content(section.root_certificates_file),
        qr_product=section.qr_product,
        paths=_paths(section),
        now_s=now_s,
    )
    channel = alipay.Alipay(credentials)
    return Loaded(channel, channel.statement_origins, credentials.files)


def _unionpay(section: UnionPay, now_s: int) -> Loaded:
    credentials = unionpay_keys.load_credentials(
        mer_id=section.merchant_id,
        base_url=section.base_url,
        file_url=section.file_url,
        query_path=section.query_path,
        private_key_pem=section.private_key.encode() or None,
        certificate_pem=_content(section.certificate_file),
        pfx=_content(section.pfx_file),
        pfx_password=section.pfx_password,
        root_certificates=each_certificate(section.root_certificate_file),
        middle_certificates=each_certificate(section.middle_certificate_file),
        accept_test_names=section.test_environment,
        paths=_paths(section),
        now_s=now_s,
    )
    return Loaded(unionpay.UnionPay(credentials), (section.file_url,), credentials.files)


_LOADERS: Final[Mapping[str, Callable[[Any, int], Loaded]]] = {
    "wechatpay": _wechatpay,
    "alipay": _alipay,
    "unionpay": _unionpay,
}


def _paths(section: ChannelSection) -> dict[str, str]:
    """Where the files stand, by the setting that names them: for messages."""
    return {name: str(path) for name, path in msgspec.structs.asdict(section).items() if isinstance(path, Path)}


def _content(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def each_certificate(path: Path | None) -> dict[str, bytes]:
    """The certificates in a file, each with a name for messages. A file without any is left to whoever reads it."""
    content = _content(path) or b""
    found = _CERTIFICATE.findall(content) or [content]
    return {str(path) if number == 1 else f"{path} ({number})": pem for number, pem in enumerate(found, start=1) if pem}
