"""WeChat Pay, to be forged: what its notification means, and what an attacker with other keys could make of one.

Everything that the platform signs stands in the raw body and four headers; the body is sealed as well.
"""

import json
from collections.abc import Callable, Iterator

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.fuzz import bytewise, jsonwise
from bench.fuzz.corpus import Kind, Scene
from bench.fuzz.message import BODY_BYTES_MAX, Crafted, Message, Voucher, message_of, sealed_meaning
from channels.simulator import wechat_envelope as envelope
from channels.simulator import wechat_keys
from channels.simulator.trades import Trade
from channels.simulator.wechat import transaction
from channels.simulator.wechat_keys import Merchant, PlatformKeys

DEEP = 20_000
MINUTES_S = 600  # what is from the future must not become present while it is used
LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def _sealed(merchant: Merchant, plaintext: bytes, event: str = "TRANSACTION.SUCCESS") -> bytes:
    return envelope.sealed(merchant, envelope.Notice(event, "支付成功", "transaction", plaintext, 1), "fuzz")


def _delivered(scene: Scene, trade: Trade, seal: envelope.Seal, body: bytes, age_s: int = 0) -> Message:
    moment = scene.platform.moment()
    headers, body = envelope.deliver(seal, body, "", moment.now_s - age_s, moment.nonce)
    return message_of(trade.made.notify_url, headers, body)


def _forged(scene: Scene, trade: Trade, genuine: Message) -> Iterator[Crafted]:
    keys: PlatformKeys = scene.keys
    false_keys: PlatformKeys = scene.impostors_keys
    serial = keys.public_key_id
    impostor = envelope.Seal(serial, false_keys.private_key)
    yield Crafted("signed by an impostor under our key's id", _delivered(scene, trade, impostor, genuine.body))
    for false in (false_keys.certificates[0], keys.certificates[1]):
        seal = envelope.Seal(false.serial, false.private_key)
        yield Crafted("signed by a certificate we do not have", _delivered(scene, trade, seal, genuine.body))
        seal = envelope.Seal(serial, false.private_key)
        yield Crafted("signed by a certificate under our key's id", _delivered(scene, trade, seal, genuine.body))
    seal = envelope.Seal(serial, keys.private_key)
    for age_s in (300, 301, 3_600, 2**40, -300 - MINUTES_S, -86_400):
        yield Crafted("old or from the future", _delivered(scene, trade, seal, genuine.body, age_s))
    probe = b"WECHATPAY/SIGNTEST/"
    yield Crafted("a probe", _swapped(genuine, b"Wechatpay-Signature", lambda value: probe + value[len(probe) :]))
    yield Crafted("another serial", _swapped(genuine, b"Wechatpay-Serial", lambda value: value[:-4] + b"0000"))
    yield Crafted("signed in another case", _swapped(genuine, b"Wechatpay-Signature", lambda value: value.swapcase()))
    yield Crafted("signature not canonical", _swapped(genuine, b"Wechatpay-Signature", _not_canonical))


def _odd(scene: Scene, trade: Trade) -> Iterator[Crafted]:
    """The platform signs and seals it, and no honest platform would."""
    keys: PlatformKeys = scene.keys
    merchant = keys.merchants[trade.made.merchant]
    seal = envelope.Seal(keys.public_key_id, keys.private_key)

    def signed(name: str, body: bytes) -> Crafted:
        return Crafted(f"genuine, {name}", _delivered(scene, trade, seal, body), Voucher.PLATFORM)

    true = json.loads(transaction(trade))
    for name, value in _ODD_VALUES:
        for field in ("amount", "mchid", "out_trade_no", "trade_state", "success_time"):
            plaintext = json.dumps({**true, field: value}).encode("utf-8", "surrogatepass")
            yield signed(f"{name} as {field}", _sealed(merchant, plaintext))
    for total in (0, -1, 1.5, 1e300, 10**40, "1", None, True):
        plaintext = json.dumps({**true, "amount": {**true["amount"], "total": total}}).encode()
        yield signed("odd total", _sealed(merchant, plaintext))
    for state in ("NOTPAY", "CLOSED", "PAYERROR", "success", ""):
        yield signed("another state", _sealed(merchant, json.dumps({**true, "trade_state": state}).encode()))
    for name, plaintext in _ODD_PLAINTEXTS:
        yield signed(f"{name} sealed", _sealed(merchant, plaintext))
    for name, body in _ODD_PLAINTEXTS:
        yield signed(f"{name} as body", body)
    yield signed("sealed for nobody", _sealed(_with_key(merchant, AESGCM(bytes(32))), transaction(trade)))
    for event in ("TRANSACTION.PAYSCORE", "x" * 1_000):
        yield signed("another event", _sealed(merchant, transaction(trade), event))
    yield from (signed(name, body) for name, body in _odd_envelopes(_sealed(merchant, transaction(trade))))


_ODD_VALUES = (
    ("null", None),
    ("a number", 10**30),
    ("a list", [1]),
    ("empty", ""),
    ("long", "9" * 300),
    ("half", "\ud800"),
)
_ODD_PLAINTEXTS = (
    ("nothing", b""),
    ("no JSON", b"\xff\xfe\x00"),
    ("an array", b"[]"),
    ("a null", b"null"),
    ("brackets", b"[" * DEEP + b"]" * DEEP),
    ("objects", b'{"a":' * (DEEP // 2) + b"1" + b"}" * (DEEP // 2)),
    ("a long text", b'{"mchid":"' + b"9" * (BODY_BYTES_MAX - 20_000) + b'"}'),
    ("a long number", b'{"amount":{"total":' + b"9" * 40_000 + b"}}"),
)


def _odd_envelopes(body: bytes) -> Iterator[tuple[str, bytes]]:
    envelope_ = json.loads(body)
    resource = envelope_["resource"]
    for field, value in (
        *(("nonce", ""), ("nonce", "x" * 5_000), ("nonce", "汉" * 4), ("algorithm", "AEAD_SM4_GCM"), ("nonce", None)),
        *(("ciphertext", ""), ("ciphertext", "!"), ("ciphertext", "A" * 60_000), ("associated_data", "x" * 60_000)),
    ):
        yield f"odd {field}", json.dumps({**envelope_, "resource": {**resource, field: value}}).encode()
    yield "no resource", json.dumps({**envelope_, "resource": None}).encode()


def _with_key(merchant: Merchant, key: AESGCM) -> Merchant:
    return msgspec.structs.replace(merchant, seal_key=key)


def _swapped(message: Message, name: bytes, change: Callable[[bytes], bytes]) -> Message:
    return message._replace(headers=tuple((n, change(v) if n == name else v) for n, v in message.headers))


def _not_canonical(signature: bytes) -> bytes:
    """The same signature to a base64 that does not look at its last bits."""
    at = len(signature.rstrip(b"=")) - 1
    return signature[:at] + bytes([LETTERS[LETTERS.index(signature[at]) ^ 1]]) + signature[at + 1 :]


KIND = Kind(
    channel="wechatpay",
    load_keys=wechat_keys.load,
    mutations=(*bytewise.mutations(headers=3), *jsonwise.mutations()),
    meaning=sealed_meaning,
    forged=_forged,
    odd=_odd,
)
