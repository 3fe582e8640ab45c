"""The configuration says everything that is wrong with it, at once, where it stands; and production is strict."""

import base64
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from msgspec.structs import fields

from gateway.config import Config, ConfigError, Env, load
from gateway.config.rules import OFFICIAL_HOSTS
from gateway.config.sections import Alipay, Channels, UnionPay, WechatPay

MASTER_KEY = base64.b64encode(b"k" * 32).decode()
WECHATPAY = """
[channels.wechatpay]
appid = "wx1"
mchid = "1900000001"
merchant_serial = "5157F09EFDC096DE15EBE81A47057A72"
private_key_file = "merchant.pem"
api_v3_key_file = "v3.key"
platform_certificates = ["root.pem"]
"""
PUBLIC_KEY = 'public_key_id = "PUB_KEY_ID_1"\npublic_key = "k"\n'
ALIPAY = """
[channels.alipay]
app_id = "2021000000000000"
seller_id = "2088000000000000"
private_key_file = "merchant.pem"
"""
ALIPAY_KEY = ALIPAY + 'public_key_file = "public.pem"\n'
ALIPAY_CERTIFICATES = (
    ALIPAY
    + """
app_certificate_file = "root.pem"
alipay_certificate_file = "root.pem"
root_certificates_file = "root.pem"
"""
)
UNIONPAY = """
[channels.unionpay]
merchant_id = "777290058110048"
root_certificate_file = "root.pem"
middle_certificate_file = "root.pem"
"""
UNIONPAY_PFX = UNIONPAY + 'pfx_file = "merchant.pfx"\npfx_password = "000000"\n'
UNIONPAY_PEM = UNIONPAY + 'private_key_file = "merchant.pem"\ncertificate_file = "root.pem"\n'
PROD = {
    "HOLDFAST_ENV": "prod",
    "HOLDFAST_SERVER__PUBLIC_URL": "https://pay.example.com",
    "HOLDFAST_DATABASE__URL": "postgresql://holdfast:hunter2@db/holdfast",
    "HOLDFAST_REDIS__URL": "redis://cache",
    "HOLDFAST_SECURITY__MASTER_KEY": MASTER_KEY,
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "merchant.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    (tmp_path / "v3.key").write_text("v" * 32 + "\n")
    (tmp_path / "public.pem").write_text("-----BEGIN PUBLIC KEY-----\n")
    (tmp_path / "root.pem").write_bytes(b"# in Latin-1: \xe9\n-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "merchant.pfx").write_bytes(b"0\x82\xff\x00\x9d")
    return tmp_path


def read(directory: Path, toml: str, **environ: str) -> Config:
    path = directory / "holdfast.toml"
    path.write_text(toml)
    return load(path, environ)


def mistakes(directory: Path, toml: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        read(directory, toml, **environ)
    return refused.value.mistakes


def test_without_a_file_and_variables_it_is_the_development_gateway() -> None:
    config = load(None, {})
    assert config.env is Env.DEV
    assert (config.database.url, config.redis.url) == ("embedded", "embedded")
    assert config.server.public_url == "http://127.0.0.1:8080"
    assert config.embedded.root == Path(__file__).resolve().parents[2] / "var"
    assert config.channels.wechatpay is None


def test_the_default_ladders_are_the_recipes() -> None:
    checks = load(None, {}).checks
    assert (checks.timeout_s, checks.queries_s) == (30, (10, 20, 30))
    assert checks.exception_s == (3600,) * 24 + (21600,) * 24
    assert sum(checks.exception_s) == 7 * 86400


def test_a_file_sets_and_a_variable_wins(directory: Path) -> None:
    toml = '[server]\nhost = "::1"\nport = 1\n[checks]\nqueries_s = [1, 2.5]\n[embedded]\nroot = "data"\n'
    config = read(directory, toml, HOLDFAST_SERVER__PORT="9000", HOLDFAST_SERVER__SINGLE_PROCESS="true")
    assert (config.server.host, config.server.port, config.server.single_process) == ("::1", 9000, True)
    assert config.server.public_url == "http://[::1]:9000"
    assert config.checks.queries_s == (1.0, 2.5)
    assert config.embedded.root == directory / "data"


def test_a_list_in_a_variable_is_json(directory: Path) -> None:
    assert read(directory, "", HOLDFAST_CHECKS__CLOSING_S="[0.5, 1]").checks.closing_s == (0.5, 1.0)
    assert mistakes(directory, "", HOLDFAST_CHECKS__CLOSING_S="0.5 1") == [
        "checks.closing_s: Expected `array`, got `str`"
    ]


def test_variables_of_others_and_of_the_crash_points_are_left_alone() -> None:
    assert load(None, {"HOLDFAST_CRASH_AT": "commit", "HOLDFAST_API_KEY": "hk_", "SERVER__PORT": "x"}) == load(None, {})


def test_all_mistakes_are_reported_together_each_with_its_path(directory: Path) -> None:
    toml = """
    env = "production"
    colour = "red"
    sweep = 3
    [server]
    port = 70000
    prot = 1
    drain_s = true
    [checks]
    queries_s = [10, 0]
    slow_queries_s = []
    timeout_s = inf
    [limits]
    actors_max = "many"
    batch_rows_max = 9000
    [channels.wechatpay]
    appid = "wx1"
    private_key_file = "nowhere.pem"
    [channels.paypal]
    """
    found = mistakes(directory, toml, HOLDFAST_REDIS__TIMEOUT_MS="nan", HOLDFAST_FOO__BAR="1")
    assert set(found) == {
        "env: Invalid enum value 'production'",
        "colour: no such setting",
        "sweep: Expected a table, got `int`",
        "server.port: Expected `int` <= 65535",
        "server.prot: no such setting",
        "server.drain_s: Expected `float`, got `bool`",
        "checks.queries_s[1]: Expected `float` > 0.0",
        "checks.slow_queries_s: Expected `array` of length >= 1",
        "checks.timeout_s: Expected `float` <= 31536000.0",
        "limits.actors_max: Expected `int`, got `str`",
        "limits.batch_rows_max: must not exceed limits.backlog_rows_max",
        "redis.timeout_ms: Expected `float` > 0.0",
        "channels.paypal: no such setting",
        "channels.wechatpay.mchid: required",
        "channels.wechatpay.merchant_serial: required",
        f"channels.wechatpay.private_key_file: can't read {directory / 'nowhere.pem'}: No such file or directory",
        "channels.wechatpay.api_v3_key: Expected 32 bytes (in api_v3_key or the file api_v3_key_file)",
        "channels.wechatpay.public_key_id: give it with public_key_file, or platform_certificates, or all of them",
        "HOLDFAST_FOO__BAR: no such setting",
    }
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("toml", "mistake"),
    [
        ('[server]\nport = "8080"', "server.port: Expected `int`, got `str`"),
        ("[server]\nport = -1", "server.port: Expected `int` >= 0"),
        ('[server]\npublic_url = "pay.example.com"', "server.public_url: Expected http://HOST or https://HOST"),
        ('[server]\npublic_url = "http://pay:x"', "server.public_url: Expected http://HOST or https://HOST"),
        ('[server]\npublic_url = "https://pay/?a"', "server.public_url: must have no query, no fragment and no / at"),
        ('[database]\nurl = "mysql://db"', 'database.url: Expected "embedded" or postgresql://'),
        ("[database]\npool_max = 1", "database.pool_max: Expected `int` >= 2"),
        ('[database]\nrole = "x; DROP"', "database.role: Expected `str` matching regex"),
        ('[redis]\nurl = "localhost"', 'redis.url: Expected "embedded", "off"'),
        ('[security]\nmaster_key = "c2hvcnQ="', "security.master_key: Expected base64 of 32 bytes"),
        ('[security]\nmaster_key = "ß"', "security.master_key: Expected base64 of 32 bytes"),
        ('[security]\nmaster_key_file = "."', "security.master_key_file: can't read"),
        ("[notifications]\nkeep_days = 7", "notifications.keep_unverified_days: must not exceed"),
        ("[notifications]\nparked_s = [0]", "notifications.parked_s[0]: Expected `float` > 0.0"),
        (WECHATPAY + "queries_per_s = 0", "channels.wechatpay.queries_per_s: Expected `float` > 0.0"),
        (WECHATPAY + "breaker_failures = 0", "channels.wechatpay.breaker_failures: Expected `int` >= 1"),
        ("[webhooks]\nschedule_s = [0, -1]", "webhooks.schedule_s[1]: Expected `float` >= 0.0"),
        ("[webhooks]\njitter = 1.5", "webhooks.jitter: Expected `float` <= 1.0"),
        ("[sweep]\nlease_s = 5" + WECHATPAY, "sweep.lease_s: must exceed channels.wechatpay.timeout_s"),
        (WECHATPAY + 'base_url = "ftp://x"', "channels.wechatpay.base_url: Expected http://HOST"),
        (WECHATPAY + 'public_key = "k"', "channels.wechatpay.public_key_id: belongs together with"),
        (WECHATPAY + 'api_v3_key = "k"', "channels.wechatpay.api_v3_key_file: api_v3_key is set as well"),
        (WECHATPAY.replace("root", "a"), "channels.wechatpay.platform_certificates[0]: can't read"),
        (
            WECHATPAY.replace('"root.pem"', "1") + PUBLIC_KEY,
            "channels.wechatpay.platform_certificates[0]: Expected `str`",
        ),
        (WECHATPAY.replace('"root.pem"', ""), "channels.wechatpay.public_key_id: give it with public_key_file"),
        (WECHATPAY + 'base_url = "https://h/v3"', "channels.wechatpay.base_url: must end with the host"),
        (WECHATPAY + 'merchant_certificate_file = "a"', "channels.wechatpay.merchant_certificate_file: can't read"),
        ("[server]\npublic_url = 'https://{}'".format("x" * 200), "server.public_url: Expected at most 180"),
        ("[sweep]\nlease_s = 9" + ALIPAY_KEY + "timeout_s = 9", "sweep.lease_s: must exceed channels.alipay.timeout_s"),
        (ALIPAY, "channels.alipay.public_key_file: required, or in the certificate mode app_certificate_file, alipay"),
        (ALIPAY_KEY.replace('"merchant.pem"', '"root.pem"'), "channels.alipay.private_key_file: "),
        (ALIPAY_KEY.replace("private_key_file", "#"), "channels.alipay.private_key_file: required"),
        (ALIPAY_KEY.replace("seller_id", "#"), "channels.alipay.seller_id: required"),
        (ALIPAY_CERTIFICATES + 'public_key = "k"', "channels.alipay.public_key_file: an app has a public key or"),
        (ALIPAY_CERTIFICATES.replace("app_c", "#"), "channels.alipay.app_certificate_file: belongs together with"),
        (ALIPAY_CERTIFICATES.replace("root_", "#"), "channels.alipay.root_certificates_file: belongs together with"),
        (ALIPAY_KEY + 'base_url = "https://openapi.alipay.com/gateway.do"', "channels.alipay.base_url: must end with"),
        (UNIONPAY_PFX.replace("merchant_id", "#"), "channels.unionpay.merchant_id: required"),
        (UNIONPAY_PFX.replace("0048", "0048-"), "channels.unionpay.merchant_id: Expected `str` matching regex"),
        (UNIONPAY_PFX.replace("merchant.pfx", "a.pfx"), "channels.unionpay.pfx_file: can't read"),
        (UNIONPAY_PFX.replace("root_", "#"), "channels.unionpay.root_certificate_file: required"),
        (UNIONPAY_PFX.replace("middle_", "#"), "channels.unionpay.middle_certificate_file: required"),
        (UNIONPAY_PFX + 'certificate_file = "root.pem"', "channels.unionpay.certificate_file: pfx_file holds the"),
        (UNIONPAY_PFX + 'private_key_file = "merchant.pem"', "channels.unionpay.private_key_file: pfx_file holds"),
        (
            UNIONPAY_PEM.replace("\ncertificate_file", "\n#"),
            "channels.unionpay.certificate_file: required, or pfx_file",
        ),
        (UNIONPAY_PEM.replace("private_key_file", "#"), "channels.unionpay.private_key_file: required, or pfx_file"),
        (UNIONPAY_PEM + 'pfx_password = "x"', "channels.unionpay.pfx_password: there is no pfx_file"),
        (UNIONPAY_PEM + 'query_path = "queryTrans.do"', "channels.unionpay.query_path: Expected `str` matching regex"),
        (UNIONPAY_PEM + 'file_url = "ftp://h"', "channels.unionpay.file_url: Expected http://HOST"),
    ],
)
def test_one_mistake_is_reported_once_and_alone(directory: Path, toml: str, mistake: str) -> None:
    (found,) = mistakes(directory, toml)
    assert found.startswith(mistake)


@pytest.mark.parametrize(("content", "why"), [(b"port = ", "not TOML"), (b"\xff\xfe", "not TOML"), (None, "read")])
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"{path}.*{why}"):
        load(path, {})


def test_files_of_secrets_become_the_secrets(directory: Path) -> None:
    (directory / "master").write_text(MASTER_KEY + "\n")
    config = read(directory, '[security]\nmaster_key_file = "master"\n' + WECHATPAY)
    channel = config.channels.wechatpay
    assert channel is not None
    assert (config.security.master_key, channel.api_v3_key) == (MASTER_KEY, "v" * 32)
    assert channel.private_key == "-----BEGIN PRIVATE KEY-----"
    assert channel.base_url == "https://api.mch.weixin.qq.com"


def test_all_three_channels_in_each_of_their_modes(directory: Path) -> None:
    channels = read(directory, WECHATPAY + ALIPAY_KEY + UNIONPAY_PFX).channels
    assert list(channels.installed()) == ["wechatpay", "alipay", "unionpay"]
    assert channels.alipay is not None
    assert channels.unionpay is not None
    assert channels.alipay.base_url == "https://openapi.alipay.com"
    assert channels.alipay.public_key == "-----BEGIN PUBLIC KEY-----"
    assert channels.unionpay.pfx_file == directory / "merchant.pfx", "it is no text"
    assert (channels.unionpay.base_url, channels.unionpay.file_url, channels.unionpay.query_path) == (
        "https://gateway.95516.com",
        "https://filedownload.95516.com",
        "/gateway/api/queryTrans.do",
    )
    channels = read(directory, ALIPAY_CERTIFICATES + UNIONPAY_PEM).channels
    assert list(channels.installed()) == ["alipay", "unionpay"]


def test_every_address_of_every_channel_has_its_official_hosts() -> None:
    sections = {"wechatpay": WechatPay, "alipay": Alipay, "unionpay": UnionPay}
    for name, kind in sections.items():
        addresses = {field.name: field.default for field in fields(kind) if field.name.endswith("_url")}
        assert addresses.keys() == OFFICIAL_HOSTS[name].keys()
        for field, default in addresses.items():
            assert urlsplit(default).netloc in OFFICIAL_HOSTS[name][field]
    assert sections.keys() == {field.name for field in fields(Channels)}


def test_a_channel_can_be_configured_by_variables_alone(directory: Path) -> None:
    environ = {
        "HOLDFAST_CHANNELS__WECHATPAY__PLATFORM_CERTIFICATES": f'["{directory / "root.pem"}"]',
        "HOLDFAST_CHANNELS__WECHATPAY__APPID": "wx1",
        "HOLDFAST_CHANNELS__WECHATPAY__MCHID": "1900000001",
        "HOLDFAST_CHANNELS__WECHATPAY__MERCHANT_SERIAL": "51",
        "HOLDFAST_CHANNELS__WECHATPAY__PRIVATE_KEY_FILE": str(directory / "merchant.pem"),
        "HOLDFAST_CHANNELS__WECHATPAY__API_V3_KEY": "v" * 32,
    }
    channel = load(None, environ).channels.wechatpay
    assert channel is not None
    assert (channel.appid, channel.timeout_s) == ("wx1", 5.0)


def test_secrets_print_as_stars(directory: Path) -> None:
    config = read(directory, WECHATPAY, **PROD)
    printed = repr(config)
    for secret in ("hunter2", MASTER_KEY, "v" * 32, "BEGIN PRIVATE"):
        assert secret not in printed
    assert config.database.url == PROD["HOLDFAST_DATABASE__URL"], "they are the plain text to who uses them"


def test_production_accepts_real_parts(directory: Path) -> None:
    assert read(directory, WECHATPAY, **PROD).env is Env.PROD
    second = WECHATPAY + 'base_url = "https://api2.mch.weixin.qq.com"'
    assert read(directory, second, **PROD).env is Env.PROD
    assert read(directory, WECHATPAY + ALIPAY_CERTIFICATES + UNIONPAY_PFX, **PROD).env is Env.PROD


def test_production_refuses_everything_of_development_at_once(directory: Path) -> None:
    toml = 'env = "prod"\n[database]\nallow_unsafe = true\n' + WECHATPAY + 'base_url = "http://127.0.0.1:8070"'
    toml += ALIPAY_KEY + 'base_url = "https://openapi-sandbox.dl.alipaydev.com"'
    toml += (
        UNIONPAY_PFX + 'base_url = "https://gateway.test.95516.com"\nfile_url = "https://filedownload.95516.com:1"\n'
    )
    toml += "test_environment = true"
    assert [mistake.partition(":")[0] for mistake in mistakes(directory, toml)] == [
        "database.url",
        "redis.url",
        "database.allow_unsafe",
        "security.master_key_file",
        "server.public_url",
        "channels.wechatpay.base_url",
        "channels.alipay.base_url",
        "channels.unionpay.base_url",
        "channels.unionpay.file_url",
        "channels.unionpay.test_environment",
    ]


@pytest.mark.parametrize(
    "base_url",
    [
        *("https://simulator.example.com", "http://api.mch.weixin.qq.com", "https://api.mch.weixin.qq.com.evil.org"),
        *("https://api.mch.weixin.qq.com@evil.org", "https://api.mch.weixin.qq.com:8443", "https://127.0.0.1"),
    ],
)
def test_production_refuses_a_channel_address_that_is_not_the_channels(directory: Path, base_url: str) -> None:
    (found,) = mistakes(directory, f'{WECHATPAY}base_url = "{base_url}"', **PROD)
    assert found.startswith("channels.wechatpay.base_url: env = ")


def test_a_config_can_not_be_changed() -> None:
    config: Any = load(None, {})
    with pytest.raises(AttributeError):
        config.server.port = 1
