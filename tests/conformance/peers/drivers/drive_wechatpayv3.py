"""wechatpayv3 (PyPI), in both key modes. It verifies every answer but bills. It can sign, but not seal.

What it signs as the channel is therefore sealed by `cryptography`, which it uses itself, and opened by it again.
"""

import json
from base64 import b64encode
from contextlib import contextmanager

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from dialogue import account, obey
from wechatpayv3 import WeChatPay, WeChatPayType, utils
from wechatpayv3.core import Core

# The constructor sets the real address and, in certificate mode, downloads from it at once.
Core._gate_way = property(lambda self: account["base_url"], lambda self, value: None)
KINDS = {"mini": WeChatPayType.MINIPROG}


def made(private_key):
    by_key = {"public_key": account["public_key"], "public_key_id": account["public_key_id"]}
    return WeChatPay(
        wechatpay_type=WeChatPayType.NATIVE,
        mchid=account["mchid"],
        private_key=private_key,
        cert_serial_no=account["merchant_serial"],
        appid=account["appid"],
        apiv3_key=account["api_v3_key"],
        timeout=(5, 10),
        **(by_key if account["mode"] == "public_key" else {}),
    )


def told(answer):
    status, body = answer
    return {"status": status, "body": json.loads(body) if body else {}}


@contextmanager
def another_key(private_key):
    """The client as if its account had this key; a new one would fetch the certificates with it."""
    mine, wx._core._private_key = wx._core._private_key, utils.load_private_key(private_key)
    try:
        yield
    finally:
        wx._core._private_key = mine


def stranger(private_key, number):
    with another_key(private_key):
        return told(wx.query(out_trade_no=number))


def front(parts, private_key):
    """The signature of what a front end is given."""
    with another_key(private_key):
        return wx.sign(parts)


def prepay(kind, number, total, notify_url, **more):
    about = {"description": f"Tea {number} 茶", "out_trade_no": number, "notify_url": notify_url, **more}
    pay_type = KINDS.get(kind) or WeChatPayType[kind.upper()]
    return told(wx.pay(amount={"total": total}, pay_type=pay_type, **about))


def refund(refund_no, number, refunded, total, notify_url):
    amount = {"refund": refunded, "total": total, "currency": "CNY"}
    return told(wx.refund(refund_no, amount, out_trade_no=number, reason="退货", notify_url=notify_url))


def file(url):
    status, body = wx.download_bill(url)
    if isinstance(body, str):
        raise ValueError(f"{status} {body}")
    return {"status": status, "content": b64encode(body).decode()}


def read(headers, body):
    """A notification, verified and opened."""
    opened = wx.callback(headers, body.encode("latin-1"))
    if not opened:
        raise ValueError("the client does not believe it")
    return opened


def sign(message, private_key):
    return utils.rsa_sign(utils.load_private_key(private_key), message)


def seal(text, key, nonce, associated_data):
    sealed = b64encode(AESGCM(key.encode()).encrypt(nonce.encode(), text.encode(), associated_data.encode())).decode()
    if utils.aes_decrypt(nonce, sealed, associated_data, key) != text:
        raise ValueError("the client can not open what was sealed for it")
    return sealed


wx = made(account["private_key"])
obey(
    certificates=lambda: [format(certificate.serial_number, "X") for certificate in wx._core._certificates],
    prepay=prepay,
    query=lambda number: told(wx.query(out_trade_no=number)),
    query_transaction=lambda transaction: told(wx.query(transaction_id=transaction)),
    close=lambda number: told(wx.close(number)),
    refund=refund,
    query_refund=lambda refund_no: told(wx.query_refund(refund_no)),
    bill=lambda day: told(wx.trade_bill(day)),
    file=file,
    read=read,
    sign=sign,
    seal=seal,
    stranger=stranger,
    front=front,
)
