"""What can be configured: one frozen struct a section. Units stand last in a name; times may have fractions.

Where `X` and `X_file` both exist, the file's content becomes `X`. A path with no such partner is a file that its user
reads as bytes: here it is only made sure that it can be read.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Text = Annotated[str, Meta(min_length=1, max_length=256)]
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]
Ladder = Annotated[tuple[Seconds, ...], Meta(min_length=1, max_length=1000)]
Waits = Annotated[tuple[Annotated[float, Meta(ge=0, le=31_536_000)], ...], Meta(min_length=1, max_length=1000)]
Days = Annotated[float, Meta(gt=0, le=36_500)]
Count = Annotated[int, Meta(ge=1, le=100_000_000)]


class Secret(str):
    """A text that prints as stars."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'********'" if self else "''"


class Env(StrEnum):
    """Where this runs: `prod` refuses everything that is only good enough for development."""

    DEV = "dev"
    PROD = "prod"


class Server(msgspec.Struct, frozen=True):
    """Where we listen, and the address under which channels reach us."""

    host: Text = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    public_url: str = ""  # empty: made of host and port
    drain_s: Annotated[float, Meta(ge=0, le=3600)] = 10.0
    single_process: bool = False


class Database(msgspec.Struct, frozen=True):
    """PostgreSQL. `allow_unsafe` is for a test server that syncs nothing."""

    url: Secret = Secret("embedded")
    pool_max: Annotated[int, Meta(ge=2, le=1000)] = 8
    role: Annotated[str, Meta(pattern="^[a-z_][a-z0-9_]{0,62}$")] = "holdfast_gateway"
    allow_unsafe: bool = False


class Redis(msgspec.Struct, frozen=True):
    """The dedup hints. "off": run without, slower and with the same answers."""

    url: Secret = Secret("embedded")
    timeout_ms: Annotated[float, Meta(gt=0, le=10_000)] = 50.0


class Security(msgspec.Struct, frozen=True):
    """The key that seals secrets in the database: base64 of 32 bytes."""

    master_key: Secret = Secret("")
    master_key_file: Path | None = None


class Embedded(msgspec.Struct, frozen=True):
    """Where the embedded servers keep their files."""

    root: Path = Path("var")


class Limits(msgspec.Struct, frozen=True):
    """What one process takes at most."""

    actors_max: Count = 200_000
    backlog_rows_max: Count = 8192
    batch_rows_max: Annotated[int, Meta(ge=1, le=10_000)] = 256
    body_bytes_max: Annotated[int, Meta(ge=1024, le=16_777_216)] = 65536


class Orders(msgspec.Struct, frozen=True):
    """What an order gets when its app says nothing."""

    expires_in_s: Seconds = 1800.0
    duplicate_window_ms: Annotated[float, Meta(gt=0, le=3_600_000)] = 5000.0


class Checks(msgspec.Struct, frozen=True):
    """When a channel is asked about an order that it said nothing about."""

    timeout_s: Seconds = 30.0  # this long after the payment was started it is overdue
    queries_s: Ladder = (10.0, 20.0, 30.0)
    slow_queries_s: Ladder = (60.0, 180.0, 300.0, 600.0, 1800.0)  # the payer takes his time; the last one repeats
    closing_s: Ladder = (5.0, 10.0, 20.0, 30.0, 60.0, 180.0, 300.0, 600.0)
    watch_s: Ladder = (60.0, 600.0, 3600.0, 21600.0)  # after closed: money may still arrive
    exception_s: Ladder = (3600.0,) * 24 + (21600.0,) * 24  # hourly for a day, then 6-hourly to 7 days
    refund_s: Ladder = (5.0, 10.0, 20.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0)  # the last one for ever
    not_found_final_s: Seconds = 600.0
    pay_wait_s: Seconds = 8.0


class Sweep(msgspec.Struct, frozen=True):
    """The scan that finds due orders whatever the actors believe."""

    every_s: Seconds = 1.0
    grace_s: Annotated[float, Meta(ge=0, le=3600)] = 2.0
    page_rows: Annotated[int, Meta(ge=1, le=10_000)] = 200
    lease_s: Seconds = 30.0


class Notifications(msgspec.Struct, frozen=True):
    """How long what channels sent is kept, and when one is tried again that speaks of an order nobody knows."""

    keep_days: Days = 365.0
    keep_unverified_days: Days = 30.0  # anybody may have sent them
    parked_s: Ladder = (10.0, 60.0, 600.0)  # then it is a case for people


class Webhooks(msgspec.Struct, frozen=True):
    """How an app is told: the wait before each try, then the letter is dead."""

    schedule_s: Waits = (
        *(0.0, 15.0, 15.0, 30.0, 180.0, 600.0, 1200.0, 1800.0, 1800.0, 1800.0),
        *(3600.0, 10800.0, 10800.0, 10800.0, 21600.0, 21600.0, 86400.0, 86400.0, 86400.0),
    )
    timeout_s: Seconds = 15.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.2
    per_endpoint: Annotated[int, Meta(ge=1, le=10_000)] = 16


class OwnChecks(msgspec.Struct, frozen=True):
    """Where a channel or a method differs from [checks]; what is None is inherited."""

    timeout_s: Seconds | None = None
    queries_s: Ladder | None = None
    slow_queries_s: Ladder | None = None


class Method(msgspec.Struct, frozen=True):
    """What can be said of a method. It inherits from its channel, and that from [checks]."""

    checks: OwnChecks = OwnChecks()


class BarcodeMethod(Method, frozen=True):
    """A method whose payer stands there: nobody opens anything first, it is asked after soon (gateway/checks.py)."""


class Methods(msgspec.Struct, frozen=True):
    """The methods of a channel, one field each: as its `Channel.methods` names them."""


class WechatPayMethods(Methods, frozen=True):
    """See Methods."""

    native: Method = Method()
    jsapi: Method = Method()
    mini: Method = Method()
    h5: Method = Method()
    app: Method = Method()


class AlipayMethods(Methods, frozen=True):
    """See Methods."""

    qr: Method = Method()
    page: Method = Method()
    wap: Method = Method()
    app: Method = Method()


class UnionPayMethods(Methods, frozen=True):
    """See Methods."""

    web: Method = Method()
    wap: Method = Method()
    app: Method = Method()
    qr: Method = Method()
    barcode: BarcodeMethod = BarcodeMethod()


class ChannelSection(msgspec.Struct, frozen=True, kw_only=True):
    """What every channel's section holds: its address, the key we sign with, and how much is asked of it at once.

    The contract with a channel may allow fewer queries; every gateway process has the whole allowance. After so many
    silences in a row (none, or a 5xx) the channel is paused, and then asked once whether it is there again.
    """

    base_url: Text
    private_key: Secret = Secret("")
    private_key_file: Path | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5.0
    concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 64
    queries_per_s: Annotated[float, Meta(gt=0, le=1_000_000)] = 2000.0
    queries_burst: Count = 2000
    breaker_failures: Count = 20
    breaker_pause_s: Annotated[float, Meta(gt=0, le=3600)] = 5.0
    checks: OwnChecks = OwnChecks()
    methods: Methods = Methods()


class WechatPay(ChannelSection, frozen=True, kw_only=True):
    """Our merchant account at WeChat Pay; its public key, its platform certificates, or both."""

    appid: Text
    mchid: Text
    merchant_serial: Text
    base_url: Text = "https://api.mch.weixin.qq.com"
    api_v3_key: Secret = Secret("")
    api_v3_key_file: Path | None = None
    public_key_id: str = ""
    public_key: str = ""
    public_key_file: Path | None = None
    platform_certificates: tuple[Path, ...] = ()
    merchant_certificate_file: Path | None = None  # signs nothing; shows that the serial is right, and until when
    methods: WechatPayMethods = WechatPayMethods()


class Alipay(ChannelSection, frozen=True, kw_only=True):
    """Our app at Alipay, in one of its two modes: Alipay's public key, or the three certificates."""

    app_id: Text
    seller_id: Text
    base_url: Text = "https://openapi.alipay.com"
    public_key: str = ""  # Alipay's, not the one that belongs to our private key
    public_key_file: Path | None = None
    app_certificate_file: Path | None = None
    alipay_certificate_file: Path | None = None  # several in one file, while Alipay renews them
    root_certificates_file: Path | None = None
    qr_product: Literal["QR_CODE_OFFLINE", "FACE_TO_FACE_PAYMENT"] = "QR_CODE_OFFLINE"  # what the contract is about
    methods: AlipayMethods = AlipayMethods()


class UnionPay(ChannelSection, frozen=True, kw_only=True):
    """Our merchant account at UnionPay: the `.pfx` that it gave us, or its key and certificate apart."""

    merchant_id: Annotated[str, Meta(pattern="^[0-9A-Za-z]{15}$")]
    base_url: Text = "https://gateway.95516.com"
    file_url: Text = "https://filedownload.95516.com"
    query_path: Annotated[str, Meta(pattern="^/[!-~]{0,127}$")] = "/gateway/api/queryTrans.do"
    certificate_file: Path | None = None
    pfx_file: Path | None = None
    pfx_password: Secret = Secret("")
    pfx_password_file: Path | None = None
    root_certificate_file: Path | None = None
    middle_certificate_file: Path | None = None  # several in one file, while they change
    test_environment: bool = False  # believe what UnionPay's test environment signs
    methods: UnionPayMethods = UnionPayMethods()


class Channels(msgspec.Struct, frozen=True):
    """The installed channels: one whose section is absent is not."""

    wechatpay: WechatPay | None = None
    alipay: Alipay | None = None
    unionpay: UnionPay | None = None

    def installed(self) -> dict[str, ChannelSection]:
        """The sections that are there, by the channel's name."""
        return {name: section for name, section in msgspec.structs.asdict(self).items() if section is not None}


class Config(msgspec.Struct, frozen=True):
    """All of it."""

    env: Env = Env.DEV
    server: Server = Server()
    database: Database = Database()
    redis: Redis = Redis()
    security: Security = Security()
    embedded: Embedded = Embedded()
    limits: Limits = Limits()
    orders: Orders = Orders()
    checks: Checks = Checks()
    sweep: Sweep = Sweep()
    notifications: Notifications = Notifications()
    webhooks: Webhooks = Webhooks()
    channels: Channels = Channels()
