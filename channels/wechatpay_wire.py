"""The words of WeChat Pay API v3 for a direct merchant: what it takes, what it sends, and what its codes mean.

Each table says where its facts come from. "Its docs" are the pages under pay.weixin.qq.com/doc/v3/merchant, "its
samples" the code that Tencent publishes as wechatpay-skills, wechatpay-go and wechatpay-java.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from channels import moments
from channels.contract import (
    ChannelPayment,
    ChannelRefund,
    CredentialType,
    Method,
    Param,
    PaymentRequest,
    RefundRequest,
    RefundState,
    Response,
)
from channels.params import mistake_in

NAME: Final = "wechatpay"
SCHEME: Final = "WECHATPAY2-SHA256-RSA2048"
PROBE_PREFIX: Final = "WECHATPAY/SIGNTEST/"  # deliberately wrong signatures, to find merchants who do not verify
CLOCK_SKEW_S: Final = 300  # its samples refuse what was signed five minutes ago or more
EXPIRE_AFTER_MIN_S: Final = 60  # the platform raises anything earlier to one minute
EXPIRE_AFTER_MAX_S: Final = 7 * 86400  # its pages disagree on the upper bound; all of them allow seven days
DESCRIPTION_CHARS_MAX: Final = 127
REASON_BYTES_MAX: Final = 80  # its docs say 80 and not of what; the smaller reading is never refused
URL_CHARS_MAX: Final = 255
CERTIFICATES_MAX: Final = 16  # one, or two while they rotate

CERTIFICATES: Final = "/v3/certificates"
REFUNDS: Final = "/v3/refund/domestic/refunds"
TRADES: Final = "/v3/pay/transactions/out-trade-no"

# --- codes ----------------------------------------------------------------------------------------------------------
# Compared without "_": older pages and services write ORDERNOTEXIST for ORDER_NOT_EXIST. Only these decide anything.

# pay: codes by which the platform refuses the request itself (its docs, the error table of each prepay page). Not here,
# because the attempt may exist all the same or the code says nothing about it: OUT_TRADE_NO_USED (an earlier send may
# have won), SIGN_ERROR (our key or clock), FREQUENCY_LIMITED, RATELIMIT_EXCEEDED, SYSTEM_ERROR, SERVICE_UNAVAILABLE.
PAY_REFUSED: Final = frozenset(
    {
        "PARAMERROR",
        "INVALIDREQUEST",
        "APPIDMCHIDNOTMATCH",
        "MCHNOTEXISTS",
        "NOAUTH",
        "RULELIMIT",
        "TRADEERROR",
        "ORDERCLOSED",
    }
)
ALREADY_PAID: Final = "ORDERPAID"
ALREADY_CLOSED: Final = "ORDERCLOSED"
NOT_FOUND: Final = "ORDERNOTEXIST"

# refund: its docs, the error table of the refund page. NOT_ENOUGH (the merchant's balance) and USER_ACCOUNT_ABNORMAL
# mean that the application failed; RESOURCE_NOT_EXISTS that no such payment can be refunded. FREQUENCY_LIMITED is not
# here: by the same page the refund may be under way.
REFUND_REFUSED: Final = frozenset(
    {
        "PARAMERROR",
        "INVALIDREQUEST",
        "MCHNOTEXISTS",
        "NOAUTH",
        "NOTENOUGH",
        "USERACCOUNTABNORMAL",
        "RESOURCENOTEXISTS",
    }
)
REFUND_NOT_FOUND: Final = "RESOURCENOTEXISTS"

# statement: its docs, the error table of the trade bill page.
STATEMENT_NONE: Final = "NOSTATEMENTEXIST"
STATEMENT_CREATING: Final = "STATEMENTCREATING"

# query: what `trade_state` means (its docs, and wechatpay-java's enum). REFUND is a paid order with refunds, also
# partial ones; NOTPAY also follows a failed try of the payer; PAYERROR and REVOKED end a bar code payment. Any other
# is unknown.
STATES_PAID: Final = frozenset({"SUCCESS", "REFUND"})
STATES_PAYABLE: Final = frozenset({"NOTPAY", "USERPAYING", "ACCEPT"})
STATES_CLOSED: Final = frozenset({"CLOSED", "REVOKED", "PAYERROR"})

# refunds: what `status` and `refund_status` mean. CLOSED needs a new number to try again; ABNORMAL waits for a person.
REFUND_STATES: Final = {
    "PROCESSING": RefundState.PROCESSING,
    "SUCCESS": RefundState.SUCCEEDED,
    "CLOSED": RefundState.FAILED,
    "ABNORMAL": RefundState.ABNORMAL,
}

PAID_EVENT: Final = "TRANSACTION.SUCCESS"
REFUND_EVENTS: Final = frozenset({"REFUND.SUCCESS", "REFUND.ABNORMAL", "REFUND.CLOSED"})

# --- methods --------------------------------------------------------------------------------------------------------

_OPENID = Param(
    name="openid",
    about="the payer's openid under the configured appid",
    required=True,
    pattern=r"[0-9A-Za-z_\-]+",
)

METHODS: Final[Mapping[str, Method]] = {
    method.name: method
    for method in (
        Method(name="native", about="the payer scans a QR code", credential=CredentialType.QR, renewable=True),
        Method(
            name="jsapi",
            about="a page inside WeChat calls WeixinJSBridge with the parameters",
            credential=CredentialType.PARAMS,
            renewable=True,
            params=(_OPENID,),
        ),
        Method(
            name="mini",
            about="a mini program calls wx.requestPayment with the parameters",
            credential=CredentialType.PARAMS,
            renewable=True,
            params=(_OPENID,),
        ),
        Method(
            name="h5",
            about="a phone's browser opens the address from the merchant's registered domain",
            credential=CredentialType.URL,
            renewable=True,
            params=(
                Param(
                    name="payer_client_ip",
                    about="the payer's IPv4 or IPv6 address",
                    required=True,
                    pattern=r"[0-9A-Fa-f]*[.:][0-9A-Fa-f.:]+",
                    chars_max=45,
                ),
                Param(name="type", about="where the payer is", required=True, choices=("Wap", "iOS", "Android")),
                Param(name="app_name", about="the application's name", chars_max=64),
                Param(name="app_url", about="the site's address", chars_max=128),
                Param(name="bundle_id", about="the application's bundle on iOS", chars_max=128),
                Param(name="package_name", about="the application's package on Android", chars_max=128),
            ),
        ),
        Method(
            name="app",
            about="an application calls WeChat's OpenSDK with the parameters",
            credential=CredentialType.PARAMS,
            renewable=True,
        ),
    )
}


class Way(msgspec.Struct, frozen=True):
    """Where a method's prepay goes, and how long what it gives is good for (its docs), whatever the order's expiry."""

    target: str
    life_s: int


WAYS: Final = {
    "native": Way("/v3/pay/transactions/native", 2 * 3600),
    "jsapi": Way("/v3/pay/transactions/jsapi", 2 * 3600),
    "mini": Way("/v3/pay/transactions/jsapi", 2 * 3600),
    "h5": Way("/v3/pay/transactions/h5", 5 * 60),
    "app": Way("/v3/pay/transactions/app", 2 * 3600),
}
_H5_INFO: Final = ("type", "app_name", "app_url", "bundle_id", "package_name")


def special_fields(method: str, params: Mapping[str, str]) -> dict[str, object]:
    """What a method's prepay says beside what all of them say."""
    if method in ("jsapi", "mini"):
        return {"payer": {"openid": params["openid"]}}
    if method == "h5":
        h5_info = {name: params[name] for name in _H5_INFO if name in params}
        return {"scene_info": {"payer_client_ip": params["payer_client_ip"], "h5_info": h5_info}}
    return {}


# --- what can not be sent at all ------------------------------------------------------------------------------------

_OUT_TRADE_NO = re.compile(r"[0-9A-Za-z_\-|*]{6,32}", re.ASCII)
_OUT_REFUND_NO = re.compile(r"[0-9A-Za-z_\-|*@]{1,64}", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")
_ADDRESS = re.compile(rf"https?://[!->@-~]{{1,{URL_CHARS_MAX - 8}}}", re.ASCII)  # no "?": it takes no query


def unacceptable_payment(request: PaymentRequest) -> str:
    """Why the platform can not take it, beginning with the field's name; empty if it can."""
    method = METHODS.get(request.attempt.method)
    if method is None:
        return f"method: {request.attempt.method} is not offered; possible: {', '.join(METHODS)}"
    if request.currency != "CNY":
        return f"currency: must be CNY, not {request.currency}"
    if isinstance(request.amount, bool) or request.amount < 1:
        return "amount: must be at least 1 fen"
    if not _OUT_TRADE_NO.fullmatch(request.attempt.out_trade_no):
        return "out_trade_no: 6 to 32 of 0-9 A-Z a-z _ - | *"
    if not request.subject or _SURROGATE.search(request.subject):
        return "subject: must be text and not empty"
    if not _ADDRESS.fullmatch(request.notify_url):
        return f"notify_url: must be an address of at most {URL_CHARS_MAX} characters without a query"
    return mistake_in(request.params, method)


def unacceptable_refund(request: RefundRequest) -> str:
    """Why the platform can not take it, beginning with the field's name; empty if it can."""
    if request.currency != "CNY":
        return f"currency: must be CNY, not {request.currency}"
    if isinstance(request.amount, bool) or not 1 <= request.amount <= request.total:
        return "amount: must be at least 1 fen and at most what was paid"
    if not _OUT_REFUND_NO.fullmatch(request.refund.refund_no):
        return "refund_no: 1 to 64 of 0-9 A-Z a-z _ - | * @"
    if _SURROGATE.search(request.reason):
        return "reason: must be text"
    if not _ADDRESS.fullmatch(request.notify_url):
        return f"notify_url: must be an address of at most {URL_CHARS_MAX} characters without a query"
    return ""


def refund_body(request: RefundRequest) -> bytes:
    """The refund as it is sent, the same bytes each time. It names the transaction: that is the money itself."""
    key = request.refund
    body: dict[str, object] = {"out_trade_no": key.out_trade_no}
    if key.channel_transaction:
        body = {"transaction_id": key.channel_transaction}  # its docs: one of the two
    body["out_refund_no"] = key.refund_no
    reason = request.reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore")
    if reason:
        body["reason"] = reason
    body["notify_url"] = request.notify_url
    body["amount"] = {"refund": request.amount, "total": request.total, "currency": request.currency}
    return encode(body)


# --- what the platform sends ----------------------------------------------------------------------------------------

_Account = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z]{1,32}\Z")]
_Number = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_\-|*]{1,32}\Z")]
_RefundNumber = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_\-|*@]{1,64}\Z")]
_Currency = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}\Z")]
_Fen = Annotated[int, msgspec.Meta(ge=1, le=10**15)]


class Amount(msgspec.Struct, frozen=True):
    """What the order costs; not `payer_total`, which is what was paid after coupons."""

    total: _Fen
    currency: _Currency | None = None  # absent while unpaid: live answers then carry `payer_currency` alone


class Trade(msgspec.Struct, frozen=True):
    """A trade, as a query and a payment notification both state it. Absent while unpaid: what has a default."""

    mchid: _Account
    appid: _Account
    out_trade_no: _Number
    trade_state: str
    amount: Amount | None = None
    transaction_id: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_\-|*]{0,32}\Z")] | None = None
    success_time: str | None = None


class RefundAmount(msgspec.Struct, frozen=True):
    """What goes back of what was paid. A notification leaves the currency out."""

    refund: _Fen
    currency: _Currency = "CNY"


class Refund(msgspec.Struct, frozen=True):
    """A refund, as the answers to a refund and to its query state it."""

    out_refund_no: _RefundNumber
    out_trade_no: _Number
    transaction_id: _Number
    refund_id: _Number
    status: str
    amount: RefundAmount
    success_time: str | None = None
    user_received_account: str = ""


class RefundNotice(msgspec.Struct, frozen=True):
    """A refund, as its notification states it: `refund_status` for `status`, and whose it is."""

    mchid: _Account
    out_refund_no: _RefundNumber
    out_trade_no: _Number
    transaction_id: _Number
    refund_id: _Number
    refund_status: str
    amount: RefundAmount
    success_time: str | None = None
    user_received_account: str = ""


class Prepaid(msgspec.Struct, frozen=True):
    """What a prepay gives; each method reads its own."""

    code_url: Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,512}\Z")] | None = None
    h5_url: Annotated[str, msgspec.Meta(pattern=r"^https?://[!-~]{1,1024}\Z")] | None = None
    prepay_id: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_\-]{1,64}\Z")] | None = None


class Problem(msgspec.Struct, frozen=True):
    """An error's body."""

    code: str = ""
    message: str = ""


class Resource(msgspec.Struct, frozen=True):
    """Something sealed with the merchant's APIv3 key."""

    algorithm: str
    ciphertext: str
    nonce: str
    associated_data: str = ""


class Notice(msgspec.Struct, frozen=True):
    """A notification's body."""

    event_type: str
    resource: Resource


class _CertificateEntry(msgspec.Struct, frozen=True):
    serial_no: str
    encrypt_certificate: Resource


class CertificateList(msgspec.Struct, frozen=True):
    """The platform certificates now in use."""

    data: Annotated[list[_CertificateEntry], msgspec.Meta(max_length=CERTIFICATES_MAX)]


class BillLink(msgspec.Struct, frozen=True):
    """Where a day's list stands. The hash is that of the decompressed file (its download sample)."""

    hash_type: str
    hash_value: Annotated[str, msgspec.Meta(max_length=128)]
    download_url: Annotated[str, msgspec.Meta(max_length=2048)]


UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # RecursionError: ten thousand brackets

# Made once: making one costs as much as decoding with it.
encode: Final = msgspec.json.Encoder().encode
decode_trade: Final = msgspec.json.Decoder(Trade).decode
decode_refund: Final = msgspec.json.Decoder(Refund).decode
decode_refund_notice: Final = msgspec.json.Decoder(RefundNotice).decode
decode_prepaid: Final = msgspec.json.Decoder(Prepaid).decode
decode_notice: Final = msgspec.json.Decoder(Notice).decode
decode_certificates: Final = msgspec.json.Decoder(CertificateList).decode
decode_link: Final = msgspec.json.Decoder(BillLink).decode
_decode_problem: Final = msgspec.json.Decoder(Problem).decode


# --- what it means --------------------------------------------------------------------------------------------------


def account_of(mchid: str, appid: str) -> str:
    """How a merchant account is named outside of this channel."""
    return f"{mchid}/{appid}"


def payment_of(trade: Trade) -> ChannelPayment | None:
    """The payment that a paid trade states; None if it leaves out what a payment needs."""
    success_at_s = moments.of_rfc3339(trade.success_time or "")
    if trade.amount is None or trade.amount.currency is None or not trade.transaction_id or success_at_s is None:
        return None
    return ChannelPayment(
        channel=NAME,
        account=account_of(trade.mchid, trade.appid),
        out_trade_no=trade.out_trade_no,
        channel_transaction=trade.transaction_id,
        amount=trade.amount.total,
        currency=trade.amount.currency,
        success_at_s=success_at_s,
    )


def refund_of(stated: Refund | RefundNotice, account: str) -> ChannelRefund | None:
    """The refund that was stated; None if its state is none that we know."""
    status = stated.status if isinstance(stated, Refund) else stated.refund_status
    state = REFUND_STATES.get(status)
    if state is None:
        return None
    return ChannelRefund(
        channel=NAME,
        account=account,
        refund_no=stated.out_refund_no,
        state=state,
        out_trade_no=stated.out_trade_no,
        channel_refund=stated.refund_id,
        amount=stated.amount.refund,
        currency=stated.amount.currency,
        success_at_s=moments.of_rfc3339(stated.success_time or ""),
        detail=stated.user_received_account[:64],
    )


def problem_of(answer: Response) -> tuple[Problem, str]:
    """The error a 4xx names and its code without "_"; no code for 408, 429 and 5xx, which never decide anything."""
    try:
        problem = _decode_problem(answer.body)
    except UNREADABLE:
        return Problem(), ""
    decides = 400 <= answer.status < 500 and answer.status not in (408, 429)
    return problem, problem.code.replace("_", "") if decides else ""
