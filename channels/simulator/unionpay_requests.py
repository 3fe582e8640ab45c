"""What merchants say to UnionPay: who speaks, whether it is signed, and what is asked, each kind of its own type."""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from channels import forms, moments, signing
from channels.simulator import unionpay_envelope as envelope
from channels.simulator.platform import Incoming
from channels.simulator.unionpay_keys import Merchant, PlatformKeys

FRONT: Final = "/gateway/api/frontTransReq.do"
BACK: Final = "/gateway/api/backTransReq.do"
APP: Final = "/gateway/api/appTransReq.do"
QUERY: Final = "/gateway/api/queryTrans.do"
FILES: Final = "/"

CHARSETS: Final = {"utf-8": "utf-8", "gbk": "gbk"}
CNY: Final = "156"

# path, txnType, txnSubType, bizType -> how the payer meets it; at a page, channelType says where
_PRODUCTS: Final = {
    (FRONT, "01", "01", "000201"): "web",
    (APP, "01", "01", "000201"): "app",
    (BACK, "01", "07", "000000"): "qr",
    (BACK, "01", "06", "000000"): "barcode",
}
_NEEDED: Final = {
    "sale": ("orderId", "txnTime", "txnAmt", "currencyCode", "backUrl", "channelType"),
    "query": ("orderId", "txnTime"),
    "return": ("orderId", "txnTime", "txnAmt", "origQryId", "backUrl", "channelType"),
    "download": ("settleDate", "fileType", "txnTime"),
}
_SHAPES: Final = {
    "orderId": re.compile(r"[0-9A-Za-z]{8,40}", re.ASCII),
    "txnTime": re.compile(r"[0-9]{14}", re.ASCII),
    "payTimeout": re.compile(r"[0-9]{14}", re.ASCII),
    "txnAmt": re.compile(r"[1-9][0-9]{0,11}", re.ASCII),
    "currencyCode": re.compile(CNY),
    "origQryId": re.compile(r"[0-9]{21}", re.ASCII),
    "qrNo": re.compile(r"[0-9]{12,40}", re.ASCII),
    "settleDate": re.compile(r"[0-9]{4}", re.ASCII),
    "fileType": re.compile("00"),
    "backUrl": re.compile(r"https?://[!-~]{1,248}", re.ASCII),
    "frontUrl": re.compile(r"https?://[!-~]{1,248}", re.ASCII),
    "accessType": re.compile("0"),
    "channelType": re.compile("0[78]"),
}


class Said(msgspec.Struct, frozen=True):
    """A request's fields as text, and the charset that its answer is in."""

    fields: Mapping[str, str]
    charset: str

    def __getitem__(self, name: str) -> str:
        return self.fields.get(name, "")


class No(Exception):
    """Not a request that is answered otherwise than with this code."""

    def __init__(self, code: str, said: Said) -> None:
        super().__init__(code)
        self.code = code
        self.said = said


class Sale(msgspec.Struct, frozen=True):
    """Let somebody pay. `expires_at_s` is the payTimeout, None without one."""

    said: Said
    method: str
    number: str
    txn_time: str
    amount: int
    expires_at_s: int | None


class Query(msgspec.Struct, frozen=True):
    """What became of a trade."""

    said: Said
    number: str
    txn_time: str


class Return(msgspec.Struct, frozen=True):
    """Give back: a refund (04) or a void (31) of the trade that was paid as `original`."""

    said: Said
    kind: str
    number: str
    txn_time: str
    amount: int
    original: str


class Download(msgspec.Struct, frozen=True):
    """The file of a settlement day, `MMDD`."""

    said: Said
    day: str


def read_said(request: Incoming) -> Said:
    """The fields of a form, in the charset it names.

    Raises:
        FormError: not a form, or not text in that charset.
    """
    charset = CHARSETS.get(forms.read(request.body).fields.get("encoding", "").lower())
    if charset is None:
        raise forms.FormError("encoding")
    return Said(forms.decode(request.body, charset), charset)


def authenticate(keys: PlatformKeys, said: Said) -> Merchant:
    """Who speaks.

    Raises:
        No: nobody we know (31), another version (10), or not signed with the registered certificate (11).
    """
    if (said["version"], said["signMethod"]) != ("5.1.0", "01"):
        raise No("10", said)
    merchant = keys.merchants.get(said["merId"])
    if merchant is None:
        raise No("31", said)
    text = envelope.digest(said.fields, said.charset)
    genuine = said["certId"] == merchant.cert_id and signing.verify(merchant.public_key, text, said["signature"])
    if not genuine:
        raise No("11", said)
    return merchant


def read_asked(path: str, said: Said) -> Sale | Query | Return | Download:
    """What is asked.

    Raises:
        No: a field is missing (13), of a wrong form (10), or there is no such business (43).
    """
    kind = (said["txnType"], said["txnSubType"])
    method = _PRODUCTS.get((path, *kind, said["bizType"]))
    if method is not None:
        return _sale(said, "wap" if method == "web" and said["channelType"] == "08" else method)
    if path in (QUERY, BACK) and kind == ("00", "00"):
        _check(said, "query")
        return Query(said, said["orderId"], said["txnTime"])
    if path == BACK and kind in (("04", "00"), ("31", "00")):
        _check(said, "return")
        return Return(said, kind[0], said["orderId"], said["txnTime"], int(said["txnAmt"]), said["origQryId"])
    if path == FILES and kind == ("76", "01"):
        _check(said, "download")
        return Download(said, said["settleDate"])
    raise No("43", said)


def _sale(said: Said, method: str) -> Sale:
    _check(said, "sale")
    if method == "barcode" and not said["qrNo"]:
        raise No("13", said)
    expires_at_s = moments.of_compact(said["payTimeout"])
    if said["payTimeout"] and expires_at_s is None:
        raise No("10", said)
    return Sale(said, method, said["orderId"], said["txnTime"], int(said["txnAmt"]), expires_at_s)


def _check(said: Said, kind: str) -> None:
    if any(not said[name] for name in (*_NEEDED[kind], "accessType", "bizType")):
        raise No("13", said)
    for name, shape in _SHAPES.items():
        if said[name] and not shape.fullmatch(said[name]):
            raise No("10", said)
    if moments.of_compact(said["txnTime"]) is None:
        raise No("10", said)
