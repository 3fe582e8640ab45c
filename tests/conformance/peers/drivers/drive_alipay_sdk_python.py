"""alipay-sdk-python (PyPI), Alipay's own. It posts with an absolute request target and verifies every answer."""

import http.client
import json
import re
from urllib.parse import parse_qsl, urlsplit

from alipay.aop.api.AlipayClientConfig import AlipayClientConfig
from alipay.aop.api.DefaultAlipayClient import DefaultAlipayClient
from alipay.aop.api.exception.Exception import ResponseException
from alipay.aop.api.request.AlipayDataDataserviceBillDownloadurlQueryRequest import (
    AlipayDataDataserviceBillDownloadurlQueryRequest,
)
from alipay.aop.api.request.AlipayTradeAppPayRequest import AlipayTradeAppPayRequest
from alipay.aop.api.request.AlipayTradeCancelRequest import AlipayTradeCancelRequest
from alipay.aop.api.request.AlipayTradeCloseRequest import AlipayTradeCloseRequest
from alipay.aop.api.request.AlipayTradeFastpayRefundQueryRequest import AlipayTradeFastpayRefundQueryRequest
from alipay.aop.api.request.AlipayTradePagePayRequest import AlipayTradePagePayRequest
from alipay.aop.api.request.AlipayTradePrecreateRequest import AlipayTradePrecreateRequest
from alipay.aop.api.request.AlipayTradeQueryRequest import AlipayTradeQueryRequest
from alipay.aop.api.request.AlipayTradeRefundRequest import AlipayTradeRefundRequest
from alipay.aop.api.request.AlipayTradeWapPayRequest import AlipayTradeWapPayRequest
from alipay.aop.api.util import WebUtils
from alipay.aop.api.util.SignatureUtils import get_sign_content, sign_with_rsa2, verify_with_rsa
from Crypto.PublicKey import RSA
from dialogue import account, obey

GATEWAY = f"{account['base_url']}/gateway.do"


def connection(url, query_string, timeout):
    """As the client's own, which adds a number to a text when an address has a port."""
    place = urlsplit(url)
    return f"{url}?{query_string}", http.client.HTTPConnection(place.hostname, place.port, timeout=timeout)


WebUtils.get_http_connection = connection


def pkcs1(pem):
    """The client reads only the older form."""
    return RSA.import_key(pem).export_key("PEM", pkcs=1).decode()


def made(private_key, public_key=account["public_key"]):
    config = AlipayClientConfig()
    config.server_url = GATEWAY
    config.app_id = account["app_id"]
    config.app_private_key = pkcs1(private_key)
    config.alipay_public_key = public_key
    return DefaultAlipayClient(config)


def asked(kind, biz, notify_url=None, return_url=None):
    request = kind()
    request.biz_content = biz
    request.notify_url, request.return_url = notify_url, return_url
    return request


def told(client, request):
    """What the platform says without a signature is thrown; what it says is the answer all the same."""
    try:
        return {"signed": True, **json.loads(client.execute(request))}
    except ResponseException as refused:
        unsigned = re.search(r"response shape maybe illegal\. (\{.*\})$", str(refused), re.DOTALL)
        if not unsigned:
            raise
        return {"signed": False, **next(iter(json.loads(unsigned[1]).values()))}


def do(kind, biz, **more):
    return told(sdk, asked(kind, biz, **more))


def query(number=None, transaction=None):
    return do(AlipayTradeQueryRequest, {"out_trade_no": number} if number else {"trade_no": transaction})


def query_refund(number, refund_no):
    return do(AlipayTradeFastpayRefundQueryRequest, {"out_trade_no": number, "out_request_no": refund_no})


def bill(day):
    return do(AlipayDataDataserviceBillDownloadurlQueryRequest, {"bill_type": "trade", "bill_date": day})


def page(kind, biz, notify_url, return_url):
    code = {"page": "FAST_INSTANT_TRADE_PAY", "wap": "QUICK_WAP_WAY"}[kind]
    request = {"page": AlipayTradePagePayRequest, "wap": AlipayTradeWapPayRequest}[kind]
    return sdk.page_execute(asked(request, {"product_code": code, **biz}, notify_url, return_url), "GET")


def form(biz, notify_url, return_url):
    biz = {"product_code": "FAST_INSTANT_TRADE_PAY", **biz}
    return sdk.page_execute(asked(AlipayTradePagePayRequest, biz, notify_url, return_url), "POST")


def app(biz, notify_url):
    return sdk.sdk_execute(asked(AlipayTradeAppPayRequest, {"product_code": "QUICK_MSECURITY_PAY", **biz}, notify_url))


def read(body):
    """A notification, verified as its documents say: without `sign` and `sign_type`."""
    fields = dict(parse_qsl(body, keep_blank_values=True, strict_parsing=True))
    content = get_sign_content({k: v for k, v in fields.items() if k not in ("sign", "sign_type")})
    verify_with_rsa(account["public_key"], content.encode(), fields["sign"])
    return fields


def notice(fields, private_key, charset="utf-8"):
    """A notification signed by it, as a form."""
    sign = sign_with_rsa2(pkcs1(private_key), get_sign_content(fields), charset)
    return WebUtils.url_encode({**fields, "sign": sign, "sign_type": "RSA2"}, charset)


def with_keys(private_key, public_key, number):
    """A query with other keys than the account's."""
    client = made(private_key or account["private_key"], public_key or account["public_key"])
    return told(client, asked(AlipayTradeQueryRequest, {"out_trade_no": number}))


sdk = made(account["private_key"])
obey(
    precreate=lambda biz, notify_url: do(AlipayTradePrecreateRequest, biz, notify_url=notify_url),
    query=query,
    close=lambda number: do(AlipayTradeCloseRequest, {"out_trade_no": number}),
    cancel=lambda number: do(AlipayTradeCancelRequest, {"out_trade_no": number}),
    refund=lambda biz: do(AlipayTradeRefundRequest, biz),
    query_refund=query_refund,
    bill=bill,
    page=page,
    form=form,
    app=app,
    read=read,
    notice=notice,
    notice_gbk=lambda fields, private_key: notice(fields, private_key, "gbk"),
    with_keys=with_keys,
)
