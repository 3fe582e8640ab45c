"""python-alipay-sdk (PyPI), in both modes. It sends all by GET, verifies every answer, and throws unsigned ones."""

import json
from urllib.parse import parse_qsl

from alipay import AliPay, DCAliPay
from alipay.exceptions import AliPayException
from Cryptodome.PublicKey import RSA
from dialogue import account, obey

GATEWAY = f"{account['base_url']}/gateway.do"


def made(private_key):
    if account["mode"] == "certificate":
        certificates = account["app_certificate"], account["alipay_certificate"], account["root_certificates"]
        client = DCAliPay(account["app_id"], private_key, *certificates)
    else:
        client = AliPay(account["app_id"], None, private_key, account["public_key"])
    client._gateway = GATEWAY
    return client


def told(call, *args, **kwargs):
    """What the platform says without a signature is thrown; what it says is the answer all the same."""
    try:
        return {"signed": True, **call(*args, **kwargs)}
    except AliPayException as refused:
        return {"signed": False, **next(iter(json.loads(str(refused).partition("message:")[2]).values()))}


def precreate(biz, notify_url):
    return told(sdk.api_alipay_trade_precreate, notify_url=notify_url, **biz)


def query(number=None, transaction=None):
    return told(sdk.api_alipay_trade_query, out_trade_no=number, trade_no=transaction)


def refund(biz):
    return told(sdk.api_alipay_trade_refund, **biz)


def query_refund(number, refund_no):
    return told(sdk.api_alipay_trade_fastpay_refund_query, refund_no, out_trade_no=number)


def bill(day):
    about = {"bill_type": "trade", "bill_date": day}
    return told(sdk.server_api, "alipay.data.dataservice.bill.downloadurl.query", about)


def page(kind, biz, notify_url, return_url):
    if kind == "wap":
        biz = {"product_code": "QUICK_WAP_WAY", **biz}  # its own default is one that Alipay's documents do not know
    call = {"page": sdk.api_alipay_trade_page_pay, "wap": sdk.api_alipay_trade_wap_pay}[kind]
    return f"{GATEWAY}?{call(notify_url=notify_url, return_url=return_url, **biz)}"


def app(biz, notify_url):
    return sdk.api_alipay_trade_app_pay(notify_url=notify_url, **biz)


def read(body):
    """A notification, verified."""
    fields = dict(parse_qsl(body, keep_blank_values=True, strict_parsing=True))
    if not sdk.verify({k: v for k, v in fields.items() if k != "sign"}, fields["sign"]):
        raise ValueError("the client does not believe it")
    return fields


def notice(fields, private_key):
    """A notification signed by it, as a form: `sign_type` belongs into it, but not into what is signed."""
    return made(private_key).sign_data(dict(fields)) + "&sign_type=RSA2"


def with_keys(private_key, public_key, number):
    """A query with other keys than the account's."""
    client = made(private_key or account["private_key"])
    if public_key:
        client._alipay_public_key = RSA.import_key(public_key)
    return told(client.api_alipay_trade_query, number)


sdk = made(account["private_key"])
obey(
    precreate=precreate,
    query=query,
    close=lambda number: told(sdk.api_alipay_trade_close, out_trade_no=number),
    cancel=lambda number: told(sdk.api_alipay_trade_cancel, out_trade_no=number),
    refund=refund,
    query_refund=query_refund,
    bill=bill,
    page=page,
    app=app,
    read=read,
    notice=notice,
    with_keys=with_keys,
)
