"""Alipay, to be forged: a form, of which all but `sign` and `sign_type` is signed."""

from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import MD5, SHA1, SHA256, SHA512, HashAlgorithm

from bench.fuzz import bytewise
from bench.fuzz.corpus import Kind, Scene, told
from bench.fuzz.formwise import Form
from bench.fuzz.message import BODY_BYTES_MAX, Crafted, Message, Voucher, fields_of, form_meaning, with_fields
from channels.simulator import alipay_keys
from channels.simulator.alipay_keys import PlatformKeys
from channels.simulator.trades import Trade

Fields: TypeAlias = Mapping[bytes, bytes]

FORM = Form(
    signature=b"sign",
    unsigned=(b"sign_type",),
    telling=(
        *(b"total_amount", b"receipt_amount", b"out_trade_no", b"trade_no", b"trade_status", b"app_id", b"seller_id"),
        *(b"gmt_payment", b"notify_type", b"notify_id", b"notify_time", b"trans_currency"),
    ),
    downgrades=(
        *((b"sign_type", b"RSA"), (b"sign_type", b"rsa2"), (b"sign_type", b""), (b"sign_type", b"MD5")),
        *((b"sign_type", None), (b"sign_type", b"RSA2%00"), (b"sign_type", b"HMAC"), (b"sign", None), (b"sign", b"")),
        *((b"version", b"0.9"), (b"charset", b""), (b"charset", None), (b"sign", b"A" * 344), (b"sign", b"%00")),
    ),
)
HASHES: tuple[HashAlgorithm, ...] = (SHA1(), MD5(), SHA512())  # noqa: S303 - whoever forges takes them
UNSAID = {b"trans_currency": b"USD", b"out_biz_no": b"1", b"refund_fee": b"1.00", b"gmt_refund": b"2026-01-01 00:00:00"}
AMOUNTS = ("0.01", "999999.99", "1.999")


def _forged(scene: Scene, _trade: Trade, genuine: Message) -> Iterator[Crafted]:
    keys: PlatformKeys = scene.keys
    false: PlatformKeys = scene.impostors_keys
    fields = fields_of(genuine)
    for name, key in (
        ("an impostor", false.private_key),
        ("the key of the other mode", keys.certified_key),
        ("a stranger", keys.strangers_key),
    ):
        yield Crafted(f"signed with {name}", _signed(genuine, fields, key))
        for amount in AMOUNTS:
            changed = {**fields, b"total_amount": amount.encode()}
            yield Crafted(f"signed with {name}, other amount", _signed(genuine, changed, key))
    for weak in HASHES:
        for kind in (b"RSA", b"RSA2", weak.name.encode()):
            message = _signed(genuine, {**fields, b"sign_type": kind}, keys.private_key, weak)
            yield Crafted("a weaker hash", message)
    for unsaid, value in UNSAID.items():
        yield Crafted("a field that was not signed", with_fields(genuine, {**fields, unsaid: value}))


def _odd(scene: Scene, trade: Trade) -> Iterator[Crafted]:
    """Alipay signs it, and it says something odd."""
    keys: PlatformKeys = scene.keys
    genuine = told(scene.platform, trade)
    fields = fields_of(genuine)

    def signed(name: str, changes: Mapping[bytes, bytes | None]) -> Crafted:
        changed = {key: value for key, value in {**fields, **changes}.items() if value is not None}
        return Crafted(f"genuine, {name}", _signed(genuine, changed, keys.private_key), Voucher.PLATFORM)

    for amount in (
        "0.00",
        "-1.00",
        "1e3",
        "12.001",
        "12,00",
        "１２.00",
        "9" * 40,
        "",
        " 19.99",
        "19.99\n",
        "NaN",
        "0x1",
    ):
        yield signed("odd amount", {b"total_amount": amount.encode()})
    for name in (
        b"total_amount",
        b"out_trade_no",
        b"trade_no",
        b"app_id",
        b"seller_id",
        b"trade_status",
        b"gmt_payment",
    ):
        for value in (None, b"", b"\xff\xfe", b"\x00", b"\xed\xa0\x80", b"0", b"x" * 5_000, "汉".encode("gbk")):
            yield signed("odd field", {name: value})
    for status in (b"WAIT_BUYER_PAY", b"TRADE_CLOSED", b"TRADE_SUCCESS ", b"trade_success", b"TRADE_PENDING"):
        yield signed("another status", {b"trade_status": status})
    for kind in (b"trade_status_async", b"batch_refund_notify", b"", None):
        yield signed("another notice", {b"notify_type": kind})
    refund = {
        b"refund_fee": b"1.00",
        b"gmt_refund": b"2026-01-01 00:00:00",
        b"out_biz_no": b"01HZZZZZZZZZZZZZZZZZZZZZ01",
    }
    yield signed("a refund", refund)
    yield signed("a refund of something", {**refund, b"out_biz_no": b"\xff" * 90})
    for charset in (b"gbk", b"utf-16", b"nonsense", b"", None, b"\x00", b"x" * 9_000):
        yield signed("another charset", {b"charset": charset, b"subject": "汉字".encode("gbk")})
    yield signed("huge", {b"body": b"x" * (BODY_BYTES_MAX - 4_000)})
    yield signed("huge in GBK", {b"charset": b"gbk", b"body": "汉".encode("gbk") * 9_000})
    yield signed("recut", {b"body": b"x&total_amount=0.01&trade_no=1"})
    yield signed("many fields", {b"f%d" % number: b"" for number in range(150)})


def _signed(message: Message, fields: Fields, key: RSAPrivateKey, digest: HashAlgorithm | None = None) -> Message:
    text = b"&".join(name + b"=" + fields[name] for name in sorted(fields) if name not in (b"sign", b"sign_type"))
    return with_fields(message, {**fields, b"sign": b64encode(key.sign(text, PKCS1v15(), digest or SHA256()))})


KIND = Kind(
    channel="alipay",
    load_keys=alipay_keys.load,
    mutations=(*bytewise.mutations(headers=1), *FORM.mutations()),
    meaning=form_meaning,
    forged=_forged,
    odd=_odd,
)
