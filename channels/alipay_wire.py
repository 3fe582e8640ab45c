"""The words of Alipay's OpenAPI (gateway.do, RSA2) for a direct merchant: what it takes and sends, what its codes mean.

Each table says where its facts come from. "Its docs" are the pages under opendocs.alipay.com, "its SDKs" the official
ones for Java, Python and Node, "its sandbox" messages that Alipay really sent.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from channels import moments, signing
from channels.contract import (
    AttemptKey,
    CredentialType,
    Method,
    Param,
    PaymentRequest,
    RefundRequest,
    Response,
    Unknown,
)
from channels.money import fen_of_yuan
from channels.params import mistake_in

NAME: Final = "alipay"
GATEWAY: Final = "/gateway.do"
SUCCESS: Final = "10000"  # the call was executed; what came of it stands in the business fields

QR_LIFE_S: Final = 2 * 3600  # its docs: a code of alipay.trade.precreate lives for two hours
EXPIRE_AFTER_MIN_S: Final = 120  # its docs allow 1 minute to 15 days, counted from when they hear of it
EXPIRE_AFTER_MAX_S: Final = 15 * 86400
AMOUNT_MAX: Final = 10_000_000_000  # fen: its docs allow 0.01 to 100000000.00 yuan
SUBJECT_CHARS_MAX: Final = 256
REASON_CHARS_MAX: Final = 256
URL_CHARS_MAX: Final = 256
QUIT_URL_CHARS_MAX: Final = 400

# --- codes ----------------------------------------------------------------------------------------------------------
# Its docs: 40004 carries the business's own answer as sub_code, `ACQ.` and a name. The tables hold the names. A code
# that is not listed is unknown; a name with SYSTEM_ERROR in it (also misspelt, `AQC.SYSTEM_ERROR`) is never listed.

# Its docs, "public error codes": missing or invalid parameters, missing signature configuration, missing permission.
# The gateway refuses these before the business hears of them, and signs some of them not at all (seen: a wrong app_id).
REJECTIONS: Final = frozenset({"40001", "40002", "40003", "40006"})
BUSINESS_FAILED: Final = "40004"

TRADE_NOT_EXIST: Final = "TRADE_NOT_EXIST"

# pay (precreate): its docs, error table of alipay.trade.precreate. Refused, and nothing was made.
PAY_REFUSED: Final = frozenset(
    {
        "INVALID_PARAMETER",
        "ACCESS_FORBIDDEN",
        "EXIST_FORBIDDEN_WORD",
        "PARTNER_ERROR",
        "TOTAL_FEE_EXCEED",
        "BUYER_SELLER_EQUAL",
        "TRADE_HAS_CLOSE",
    }
)
# The same table: an attempt of this number exists, from an earlier send, with a code that may be in somebody's hand.
PAY_EXISTS: Final = frozenset({"TRADE_HAS_SUCCESS", "CONTEXT_INCONSISTENT", "APPLY_PC_MERCHANT_CODE_ERROR"})

# close: its docs, error table of alipay.trade.close. Not waiting for the buyer: paid, or closed already.
CLOSE_NOT_WAITING: Final = frozenset({"TRADE_STATUS_ERROR", "REASON_TRADE_STATUS_INVALID", "REASON_ILLEGAL_STATUS"})

# refund: its docs, error table of alipay.trade.refund, whole but for SYSTEM_ERROR and REFUND_CHARGE_ERROR (both: "try
# again", so it may have happened) and DISCORDANT_REPEAT_REQUEST (this number has been refunded, with another amount).
REFUND_REFUSED: Final = frozenset(
    {
        "ALLOC_AMOUNT_VALIDATE_ERROR",
        "BUYER_ENABLE_STATUS_FORBID",
        "BUYER_ERROR",
        "BUYER_NOT_EXIST",
        "CURRENCY_NOT_SUPPORT",
        "CUSTOMER_VALIDATE_ERROR",
        "ENTERPRISE_PAY_BIZ_ERROR",
        "INVALID_PARAMETER",
        "NOT_ALLOW_PARTIAL_REFUND",
        "ONLINE_TRADE_VOUCHER_NOT_ALLOW_REFUND",
        "OVERDRAFT_AGREEMENT_NOT_MATCH",
        "OVERDRAFT_ASSIGN_ACCOUNT_INVALID",
        "REASON_TRADE_BEEN_FREEZEN",
        "REASON_TRADE_REFUND_FEE_ERR",
        "REASON_TRADE_STATUS_INVALID",
        "REFUNDALLOC_UNAUTH_LIMIT",
        "REFUND_ACCOUNT_NOT_EXIST",
        "REFUND_AMT_NOT_EQUAL_TOTAL",
        "REFUND_FEE_ERROR",
        "REFUND_ROYALTY_PAYEE_ACCOUNT_NOT_EXIST",
        "SELLER_BALANCE_NOT_ENOUGH",
        "TRADE_HAS_CLOSE",
        "TRADE_HAS_FINISHED",
        "TRADE_NOT_ALLOW_REFUND",
        "TRADE_NOT_EXIST",
        "TRADE_SETTLE_ERROR",
        "TRADE_STATUS_ERROR",
        "USER_NOT_MATCH_ERR",
    }
)
REFUND_DISCORDANT: Final = "DISCORDANT_REPEAT_REQUEST"

# statement: its docs, error table of the bill's address. Without `ACQ.`; older answers write `isp.bill_not_exist`.
# The first two are also what is said before the list is made, in the morning after the day.
BILL_ABSENT: Final = ("BILL_NOT_EXIST", "NO_BILL_DATA")
BILL_TOO_SOON: Final = "INVAILID_ARGUMENTS"  # of a day that is not over; the spelling is its docs'
BILL_NEVER: Final = "BILL_DATE_BEFORE_REGISTRATION"
BILL_TYPE: Final = "trade"
BILL_DUE_AFTER_S: Final = 2 * 86400  # from the day's beginning: its docs say about 9 o'clock of the next day
# Where the list is fetched, by its docs and its sandbox; an address elsewhere is not followed.
BILL_ORIGINS: Final = (
    "http://dwbillcenter.alipay.com",
    "https://dwbillcenter.alipay.com",
    "http://dwbillcenter.alipaydev.com",
    "https://dwbillcenter.alipaydev.com",
)

# `trade_status`, its docs. TRADE_CLOSED: an unpaid trade that ended, or a paid one that was given back whole. Only the
# latter has a `send_pay_date` (answers of its production and its sandbox that people published, of either kind).
STATES_PAID: Final = frozenset({"TRADE_SUCCESS", "TRADE_FINISHED"})
STATE_WAITING: Final = "WAIT_BUYER_PAY"
STATE_CLOSED: Final = "TRADE_CLOSED"

# --- how a payer meets it -------------------------------------------------------------------------------------------

_HTTP_URL: Final = r"https?://[!-~]+"

METHODS: Final = {
    method.name: method
    for method in (
        Method("qr", "a QR code that the payer scans with Alipay", CredentialType.QR),
        Method(
            name="page",
            about="Alipay's cashier in a desktop browser",
            credential=CredentialType.URL,
            params=(
                Param("qr_pay_mode", "how its QR code is shown: 0 to 3 framed, 4 alone", choices=tuple("01234")),
                Param("qrcode_width", "the code's width in pixels, with qr_pay_mode 4", pattern=r"[1-9][0-9]{1,3}"),
            ),
        ),
        Method(
            name="wap",
            about="Alipay's cashier in a phone's browser, which opens its app",
            credential=CredentialType.URL,
            params=(
                Param(
                    name="quit_url",
                    about="an http address, where a payer who gives up goes",
                    pattern=_HTTP_URL,
                    chars_max=QUIT_URL_CHARS_MAX,
                ),
            ),
        ),
        Method("app", "the order string for Alipay's SDK in an app", CredentialType.PARAMS),
    )
}
# Its docs, "quick access" of each product. Python's third-party SDK writes QUICK_WAP_PAY, which is another product's.
PRODUCTS: Final = {"page": "FAST_INSTANT_TRADE_PAY", "wap": "QUICK_WAP_WAY", "app": "QUICK_MSECURITY_PAY"}
QR_PRODUCTS: Final = ("QR_CODE_OFFLINE", "FACE_TO_FACE_PAYMENT")  # by contract: the order-code product, or face to face
CREATES: Final = {
    "qr": "alipay.trade.precreate",
    "page": "alipay.trade.page.pay",
    "wap": "alipay.trade.wap.pay",
    "app": "alipay.trade.app.pay",
}

_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)
_NUMBER = re.compile(r"[0-9A-Za-z_]{1,64}", re.ASCII)
# Its docs forbid `/ = &` in a subject. `&` and `=` are also what its signatures are strung together with (see Notice),
# and nothing quotes a comma in its bills.
_SHOWN: Final = str.maketrans("/=&,", "／＝＆，")


def shown(text: str, chars_max: int) -> str:
    """A text for people, as Alipay takes it: signs that do harm by their full-width twins, control characters blank."""
    clean = text[:chars_max]
    if not clean.isprintable():
        clean = "".join([sign if sign.isprintable() else " " for sign in clean])
    return clean.translate(_SHOWN)


def unacceptable_payment(request: PaymentRequest) -> str:
    """Why a payment can not be asked for at all, with the field's name; empty if it can."""
    method = METHODS.get(request.attempt.method)
    if method is None:
        return f"method: {request.attempt.method} is not offered; possible: {', '.join(METHODS)}"
    mistake = mistake_in(request.params, method)
    if mistake:
        return mistake
    if request.currency != "CNY":
        return f"currency: {request.attempt.method} takes CNY, not {request.currency}"
    if isinstance(request.amount, bool) or not 1 <= request.amount <= AMOUNT_MAX:
        return f"amount: 1 to {AMOUNT_MAX} fen"
    if not _NUMBER.fullmatch(request.attempt.out_trade_no):
        return "out_trade_no: 1 to 64 of 0-9 A-Z a-z _"
    if not shown(request.subject, SUBJECT_CHARS_MAX).strip():
        return "subject: must be text and not empty"
    if not _address(request.notify_url):
        return f"notify_url: an http address of at most {URL_CHARS_MAX} characters"
    if request.return_url and not _address(request.return_url):
        return f"return_url: an http address of at most {URL_CHARS_MAX} characters"
    return ""


def unacceptable_refund(request: RefundRequest) -> str:
    """The same of a refund."""
    if request.currency != "CNY":
        return f"currency: CNY is given back, not {request.currency}"
    if isinstance(request.amount, bool) or not 1 <= request.amount <= request.total:
        return f"amount: 1 to {request.total} fen"
    if not _NUMBER.fullmatch(request.refund.refund_no):
        return "refund_no: 1 to 64 of 0-9 A-Z a-z _"
    return ""


def expires_at_s(attempt: AttemptKey) -> int:
    """When what we ask for ends, as the platform is told it (`time_expire`): nobody can pay after it.

    Counted from the attempt's first moment, so that it is the same however often it is asked for, and so that a QR
    code's own two hours are never shorter.
    """
    longest_s = QR_LIFE_S if attempt.method == "qr" else EXPIRE_AFTER_MAX_S
    earliest_s = attempt.started_at_s + EXPIRE_AFTER_MIN_S
    return min(max(attempt.expires_at_s, earliest_s), attempt.started_at_s + longest_s)


def signing_string(fields: Mapping[str, str]) -> bytes:
    """What a request's signature is over: all its fields but `sign`, none of them empty, with raw values."""
    return "&".join([f"{name}={fields[name]}" for name in sorted(fields)]).encode()


def _address(url: str) -> bool:
    return len(url) <= URL_CHARS_MAX and re.fullmatch(_HTTP_URL, url) is not None


# --- answers --------------------------------------------------------------------------------------------------------

_Amount = msgspec.Raw  # text, but a number in some of its docs' samples: never let it become a float


class Trade(msgspec.Struct, frozen=True):
    """What alipay.trade.query says. It names neither the app nor the seller."""

    out_trade_no: str
    trade_status: str
    trade_no: str = ""
    total_amount: _Amount = _Amount(b'""')
    send_pay_date: str | None = None
    trans_currency: str | None = None


class Precreated(msgspec.Struct, frozen=True):
    """What alipay.trade.precreate says."""

    out_trade_no: str
    qr_code: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class Ended(msgspec.Struct, frozen=True):
    """What alipay.trade.close and alipay.trade.cancel say; cancel leaves out what it found nothing for."""

    out_trade_no: str = ""
    action: str = ""
    retry_flag: str = ""


class Refunded(msgspec.Struct, frozen=True):
    """What alipay.trade.refund says. Not read: `refund_fee`, the sum of all refunds of the trade so far."""

    out_trade_no: str
    fund_change: str = ""
    gmt_refund_pay: str = ""


class DepositBack(msgspec.Struct, frozen=True):
    """How far a refund to a bank card has come: S, F or P. A refund that the bank sends back (F) stays the payer's, in
    their balance."""

    dback_status: str = ""


class RefundFound(msgspec.Struct, frozen=True):
    """What alipay.trade.fastpay.refund.query says; all but empty when it knows of no such refund."""

    out_trade_no: str = ""
    out_request_no: str = ""
    refund_status: str = ""
    refund_amount: _Amount = _Amount(b'""')
    gmt_refund_pay: str = ""
    deposit_back_info: DepositBack | None = None


class BillAddress(msgspec.Struct, frozen=True):
    """What alipay.data.dataservice.bill.downloadurl.query says: an address that lives for thirty seconds."""

    bill_download_url: Annotated[str, msgspec.Meta(max_length=4096)]


class Answer(msgspec.Struct, frozen=True):
    """An answer that is believed. `name` is the business's own code without `ACQ.`, if this is its answer."""

    code: str
    name: str
    said: str
    node: bytes

    @property
    def rejected(self) -> bool:
        """Whether the gateway refused the request itself."""
        return self.code in REJECTIONS

    def unknown(self) -> Unknown:
        """This answer, as the reason why nobody knows."""
        return Unknown(f"answered {self.code} {self.said}".rstrip())


class _Head(msgspec.Struct, frozen=True):
    code: str
    msg: str | None = None
    sub_code: str | None = None
    sub_msg: str | None = None


UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # RecursionError: ten thousand brackets

_Parts = dict[str, msgspec.Raw]
_parts: Final = msgspec.json.Decoder(_Parts).decode
_head: Final = msgspec.json.Decoder(_Head).decode
_text: Final = msgspec.json.Decoder(str).decode


def believed(response: Response, method: str, keys: Mapping[str, RSAPublicKey]) -> Answer | Unknown:
    """Cut an answer into what is said and its signature, and say what it is worth.

    What is signed are the bytes of the node as they came, from its `{` to its `}`: a JSON reader finds the end, as a
    value may hold braces or `"sign":"`. Of answers without a signature only the gateway's own refusals are believed:
    they are known to come so, and no money is seen or lost by one.
    """
    if response.status != 200:
        return Unknown(f"status {response.status}")
    try:
        parts = _parts(response.body)
        node = parts.get(f"{method.replace('.', '_')}_response") or parts.get("error_response")
        if node is None:
            return Unknown("the answer is to another question")
        head = _head(node)
        signature = _text(parts["sign"]) if "sign" in parts else ""
        serial = _text(parts["alipay_cert_sn"]) if "alipay_cert_sn" in parts else ""
    except UNREADABLE as error:
        return Unknown(f"answer not understood: {error}")
    if not signature and head.code not in REJECTIONS:
        return Unknown(f"answer not believed: {head.code[:32]} without a signature")
    said = bytes(node)
    if signature and not _signed(said, signature, serial, keys):
        return Unknown(f"answer not believed: bad signature, certificate {serial[:64] or 'not named'}")
    sub_code = head.sub_code or ""
    return Answer(
        code=head.code,
        name=sub_code.removeprefix("ACQ.") if head.code == BUSINESS_FAILED else "",
        said=" ".join(word for word in (sub_code[:64], (head.sub_msg or head.msg or "")[:128]) if word),
        node=said,
    )


def _signed(message: bytes, signature: str, serial: str, keys: Mapping[str, RSAPublicKey]) -> bool:
    """By the certificate that is named, or, if none is, by any of those we hold; of plain public keys there is one."""
    named = [keys[serial]] if serial in keys else [] if serial else list(keys.values())
    return any(signing.verify(key, message, signature) for key in named)


def fen(amount: msgspec.Raw) -> int | None:
    """An amount of an answer, written as a text or as a number; None if it is anything but fen."""
    return fen_of_yuan(bytes(amount).decode("ascii", "replace").strip('"'))


def account_of(app_id: str, seller_id: str) -> str:
    """The merchant account, as this channel names it."""
    return f"{app_id}/{seller_id}"


def is_number(text: str) -> bool:
    """Whether it can be the number of a trade, theirs or ours."""
    return _NUMBER.fullmatch(text) is not None


def currency_of(text: str | None) -> str | None:
    """The currency of an amount: yuan unless another is named; None if that is none."""
    if not text:
        return "CNY"
    return text if _CURRENCY.fullmatch(text) else None


def time_of(text: str | None) -> int | None:
    """Unix seconds of a time that may be missing."""
    return moments.of_plain(text) if text else None
