"""What each platform says of an order that was paid, or refunded in part, before it is signed.

The fields are those of real notifications, from the fact sheets.
WeChat Pay and Alipay: their documents. UnionPay: notifications of its test gateway.
"""

import json
from typing import Any

import msgspec

from channels import moments, money


class Order(msgspec.Struct, frozen=True):
    """An order of the gateway that waits for its payment, and the payment that the peer will tell of."""

    number: str
    path: str
    amount: int
    subject: str
    account: dict[str, Any]  # the fields of the gateway's section
    credential: dict[str, Any]
    transaction: str
    paid_at_s: int


def wechatpay(order: Order) -> dict[str, Any]:
    """What is sealed in a payment's notification."""
    total = order.amount
    return {
        "mchid": order.account["mchid"],
        "appid": order.account["appid"],
        "out_trade_no": order.number,
        "transaction_id": order.transaction,
        "trade_type": "NATIVE",
        "trade_state": "SUCCESS",
        "trade_state_desc": "支付成功",
        "bank_type": "OTHERS",
        "attach": "",
        "success_time": moments.rfc3339(order.paid_at_s),
        "payer": {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"},
        "amount": {"total": total, "payer_total": total, "currency": "CNY", "payer_currency": "CNY"},
    }


def wechatpay_refund(order: Order) -> dict[str, Any]:
    """What is sealed in a refund's notification: half of it was given back."""
    half = order.amount // 2
    return {
        "mchid": order.account["mchid"],
        "out_trade_no": order.number,
        "transaction_id": order.transaction,
        "out_refund_no": f"{order.number}R",
        "refund_id": f"50{order.transaction[2:]}",
        "refund_status": "SUCCESS",
        "success_time": moments.rfc3339(order.paid_at_s),
        "user_received_account": "招商银行信用卡0403",
        "amount": {"total": order.amount, "refund": half, "payer_total": order.amount, "payer_refund": half},
    }


def alipay(order: Order) -> dict[str, str]:
    """The fields of a payment's notification, before `sign` and `sign_type`."""
    at, yuan = moments.plain(order.paid_at_s), money.yuan(order.amount)
    return {
        "notify_time": at,
        "notify_type": "trade_status_sync",
        "notify_id": order.transaction + "d4",
        "app_id": order.account["app_id"],
        "auth_app_id": order.account["app_id"],
        "charset": "utf-8",
        "version": "1.0",
        "trade_no": order.transaction,
        "out_trade_no": order.number,
        "trade_status": "TRADE_SUCCESS",
        "total_amount": yuan,
        "receipt_amount": yuan,
        "buyer_pay_amount": yuan,
        "invoice_amount": yuan,
        "point_amount": "0.00",
        "buyer_id": "2088102169481075",
        "buyer_logon_id": "csq***@sandbox.com",
        "seller_id": order.account.get("seller_id", "2088102147948060"),
        "subject": order.subject,
        "gmt_create": at,
        "gmt_payment": at,
        "fund_bill_list": json.dumps([{"amount": yuan, "fundChannel": "ALIPAYACCOUNT"}], separators=(",", ":")),
    }


def alipay_refund(order: Order) -> dict[str, str]:
    """A notification of the payment again, because half of it was given back."""
    half, at = money.yuan(order.amount // 2), f"{moments.plain(order.paid_at_s)}.204"
    refund = {"refund_fee": half, "gmt_refund": at, "out_biz_no": f"{order.number}R"}
    return {**alipay(order), "notify_id": f"{order.transaction}e5", **refund}


def unionpay(order: Order) -> dict[str, str]:
    """The fields of a payment's notification, before `signPubKeyCert` and `signature`."""
    at, asked = moments.compact(order.paid_at_s), order.credential["value"]["fields"]
    told = ("accessType", "bizType", "currencyCode", "encoding", "merId", "orderId", "txnAmt", "txnTime", "version")
    return {
        **{name: asked[name] for name in (*told, "txnType", "txnSubType", "signMethod")},
        "accNo": "6216***********0018",
        "exchangeRate": "0",
        "queryId": order.transaction[-21:],
        "respCode": "00",
        "respMsg": "成功[0000000]",
        "settleAmt": asked["txnAmt"],
        "settleCurrencyCode": "156",
        "settleDate": at[4:8],
        "traceNo": order.transaction[-6:],
        "traceTime": at[4:],
    }


def unionpay_refund(order: Order) -> dict[str, str]:
    """The notification of a refund of half of it, which has a number and a transaction of its own."""
    half = str(order.amount // 2)
    own = {"orderId": f"{order.number}R", "queryId": order.transaction[:21], "origQryId": order.transaction[-21:]}
    return {**unionpay(order), **own, "txnType": "04", "txnSubType": "00", "txnAmt": half, "settleAmt": half}
