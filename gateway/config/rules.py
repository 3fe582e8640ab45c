"""What must hold between the settings, and what production refuses. A rule yields its mistakes, each with its path."""

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from gateway.config.sections import Alipay, ChannelSection, Config, Env, UnionPay, WechatPay

# The only addresses real money goes to. Anything else is a simulator, and production refuses it.
OFFICIAL_HOSTS: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    "wechatpay": {"base_url": frozenset({"api.mch.weixin.qq.com", "api2.mch.weixin.qq.com"})},
    "alipay": {"base_url": frozenset({"openapi.alipay.com"})},
    "unionpay": {
        "base_url": frozenset({"gateway.95516.com"}),
        "file_url": frozenset({"filedownload.95516.com"}),
    },
}
# Channels take 255 characters for the address they notify; ours are this and `/callbacks/CHANNEL/ORDER/ATTEMPT`.
PUBLIC_URL_CHARS_MAX: Final = 180


def broken_rules(config: Config) -> Iterator[str]:
    """All that is wrong beyond single fields."""
    yield from _broken_between_fields(config)
    for name, section in config.channels.installed().items():
        for mistake in _broken_in_channel(name, section):
            yield f"channels.{name}.{mistake}"
        if config.sweep.lease_s <= section.timeout_s:
            yield f"sweep.lease_s: must exceed channels.{name}.timeout_s, else two processes ask at once"
    if config.env is Env.PROD:
        yield from _refused_in_prod(config)


def with_public_url(config: Config) -> Config:
    """Where nothing is said, channels reach us where we listen."""
    if config.server.public_url:
        return config
    host = f"[{config.server.host}]" if ":" in config.server.host else config.server.host
    server = msgspec.structs.replace(config.server, public_url=f"http://{host}:{config.server.port}")
    return msgspec.structs.replace(config, server=server)


def _broken_between_fields(config: Config) -> Iterator[str]:
    if config.database.url != "embedded" and not config.database.url.startswith(("postgresql://", "postgres://")):
        yield 'database.url: Expected "embedded" or postgresql://...'
    schemes = ("redis://", "rediss://", "unix://")
    if config.redis.url not in {"embedded", "off"} and not config.redis.url.startswith(schemes):
        yield 'redis.url: Expected "embedded", "off", redis://, rediss:// or unix://...'
    if config.server.public_url and (wrong := _wrong_url(config.server.public_url)):
        yield f"server.public_url: {wrong}"
    if len(config.server.public_url) > PUBLIC_URL_CHARS_MAX:
        yield f"server.public_url: Expected at most {PUBLIC_URL_CHARS_MAX} characters"
    if config.security.master_key and _base64_bytes(config.security.master_key) != 32:
        yield "security.master_key: Expected base64 of 32 bytes"
    if config.notifications.keep_unverified_days > config.notifications.keep_days:
        yield "notifications.keep_unverified_days: must not exceed notifications.keep_days"
    if config.limits.batch_rows_max > config.limits.backlog_rows_max:
        yield "limits.batch_rows_max: must not exceed limits.backlog_rows_max"


def _broken_in_channel(name: str, section: ChannelSection) -> Iterator[str]:
    for field in OFFICIAL_HOSTS[name]:
        if wrong := _wrong_origin(getattr(section, field)):
            yield f"{field}: {wrong}"
    match section:
        case WechatPay():
            yield from _broken_in_wechatpay(section)
        case Alipay():
            yield from _broken_in_alipay(section)
        case UnionPay():
            yield from _broken_in_unionpay(section)


def _broken_in_wechatpay(section: WechatPay) -> Iterator[str]:
    if not section.private_key:
        yield "private_key_file: required"
    if len(section.api_v3_key.encode()) != 32:
        yield "api_v3_key: Expected 32 bytes (in api_v3_key or the file api_v3_key_file)"
    if bool(section.public_key) != bool(section.public_key_id):
        yield "public_key_id: belongs together with public_key_file"
    elif not section.public_key and not section.platform_certificates:
        yield "public_key_id: give it with public_key_file, or platform_certificates, or all of them"


def _broken_in_alipay(section: Alipay) -> Iterator[str]:
    if not section.private_key:
        yield "private_key_file: required"
    names = ("app_certificate_file", "alipay_certificate_file", "root_certificates_file")
    missing = [name for name in names if getattr(section, name) is None]
    if len(missing) == len(names):
        if not section.public_key:
            yield f"public_key_file: required, or in the certificate mode {', '.join(names)}"
    elif section.public_key:
        yield "public_key_file: an app has a public key or certificates, not both"
    else:
        yield from (f"{name}: belongs together with the other two certificate files" for name in missing)


def _broken_in_unionpay(section: UnionPay) -> Iterator[str]:
    if section.pfx_file is not None:
        if section.private_key:
            yield "private_key_file: pfx_file holds the key already; one of the two"
        if section.certificate_file is not None:
            yield "certificate_file: pfx_file holds the certificate already; one of the two"
    else:
        if not section.private_key:
            yield "private_key_file: required, or pfx_file"
        if section.certificate_file is None:
            yield "certificate_file: required, or pfx_file"
        if section.pfx_password:
            yield "pfx_password: there is no pfx_file"
    for name in ("root_certificate_file", "middle_certificate_file"):
        if getattr(section, name) is None:
            yield f"{name}: required"


def _refused_in_prod(config: Config) -> Iterator[str]:
    for name, url in (("database.url", config.database.url), ("redis.url", config.redis.url)):
        if url == "embedded":
            yield f'{name}: env = "prod" refuses the embedded server'
    if config.database.allow_unsafe:
        yield 'database.allow_unsafe: env = "prod" refuses a database that may forget'
    if not config.security.master_key:
        yield 'security.master_key_file: required when env = "prod"'
    if not config.server.public_url.startswith("https://"):
        yield 'server.public_url: env = "prod" wants https://'
    for name, section in config.channels.installed().items():
        for field, hosts in OFFICIAL_HOSTS[name].items():
            address = urlsplit(getattr(section, field))
            if address.scheme != "https" or address.netloc not in hosts:
                wanted = " or ".join(sorted(hosts))
                yield f'channels.{name}.{field}: env = "prod" wants https:// and {wanted}, not a simulator'
    if (unionpay := config.channels.unionpay) and unionpay.test_environment:
        yield 'channels.unionpay.test_environment: env = "prod" refuses it: money there is not real'


def _wrong_url(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if not fine:
        return "Expected http://HOST or https://HOST"
    if parts.query or parts.fragment or url.endswith("/"):
        return "must have no query, no fragment and no / at its end"
    return None


def _wrong_origin(url: str) -> str | None:
    """A path is the channel's own: what goes before it would not be what was signed."""
    wrong = _wrong_url(url)
    return wrong or ("must end with the host or its port" if urlsplit(url).path else None)


def _base64_bytes(text: str) -> int:
    try:
        return len(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return 0
