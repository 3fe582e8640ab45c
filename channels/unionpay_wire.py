"""UnionPay's words: where its services stand, what its codes mean, how its answers are written, what of them is signed.

Signed are the bytes as they came, so nothing is decoded before it was verified; whoever reads a message afterwards
makes text of it with `texts`. The codes and their meanings are those of UnionPay's error table; where its demos say how
a code is to be taken, they are followed.
"""

import hashlib
import re
from binascii import b2a_hex
from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec

from channels import forms, moments, money
from channels.contract import (
    Accepted,
    AlreadyPaid,
    AttemptKey,
    ChannelPayment,
    ChannelRefund,
    ClosedAtChannel,
    Credential,
    CredentialType,
    Debited,
    Method,
    NotFound,
    Notified,
    NotPaid,
    Paid,
    Param,
    PaymentRequest,
    PayOutcome,
    QueryOutcome,
    RefundRequest,
    RefundState,
    Refused,
    RejectReason,
    Unknown,
)
from channels.errors import NotificationRejected
from channels.params import mistake_in

Message: TypeAlias = Mapping[str, str]  # a verified message: its fields, without the empty ones

NAME: Final = "unionpay"
VERSION: Final = "5.1.0"
SIGN_METHOD: Final = "01"  # RSA with certificates; 11 and 12 are hashes with a shared secret
ENCODING: Final = "UTF-8"  # of our requests, and therefore of their answers
CHARSETS: Final = {"utf-8": "utf-8", "gbk": "gbk"}  # what a message may say of itself, in lower case
CNY: Final = "156"

FRONT: Final = "/gateway/api/frontTransReq.do"
BACK: Final = "/gateway/api/backTransReq.do"
APP: Final = "/gateway/api/appTransReq.do"
QUERY: Final = "/gateway/api/queryTrans.do"
FILES: Final = "/"  # of the file service, which has a host of its own

SALE: Final = "01"
REFUND: Final = "04"
VOID: Final = "31"
DOWNLOAD: Final = "76"

URL_CHARS_MAX: Final = 256

# --- codes: `respCode` of an answer or a notification, and `origRespCode`: what became of the trade asked after

OK: Final = "00"
NOT_FOUND: Final = "34"
DUPLICATE: Final = "12"
NO_FILE: Final = "98"

MEANINGS: Final = {
    "00": "success",
    "A6": "success with a defect",
    "01": "failed",
    "02": "system closed",
    "03": "timed out, query",
    "04": "state not clear, query",
    "05": "accepted, query later",
    "06": "busy",
    "10": "wrong format",
    "11": "wrong signature",
    "12": "duplicate",
    "13": "a field is missing",
    "14": "wrong format of a batch file",
    "30": "refused",
    "31": "state of the merchant",
    "32": "no permission",
    "33": "amount beyond a limit",
    "34": "not found",
    "35": "the original is missing or in a wrong state",
    "36": "differs from the original",
    "37": "too many queries, or too fast",
    "38": "risk",
    "39": "outside hours",
    "40": "binding",
    "41": "state of a batch",
    "42": "debited, but after the payment time",
    "43": "business not opened",
    "44": "wrong number, or not opened",
    "45": "already refunded or voided",
    "46": "already reversed",
    "60": "failed at the issuer",
    "61": "bad card",
    "62": "the issuer refuses the merchant",
    "63": "state of the card",
    "64": "insufficient funds",
    "65": "PIN, expiry or CVN",
    "66": "identity",
    "67": "too many PIN tries",
    "68": "not supported",
    "69": "input timed out",
    "70": "waiting for the holder",
    "71": "one-time password",
    "73": "card expired",
    "74": "debited, posting unknown",
    "75": "debited, posting failed",
    "83": "the issuer is at it",
    "85": "promotion",
    "86": "state of the QR code",
    "87": "paid too often",
    "88": "no such QR code",
    "89": "token",
    "90": "balance",
    "91": "authentication",
    "98": "no such file",
    "99": "failed, in general",
    **{str(code): "of the error table, in its middle part" for code in range(76, 83)},
}

PAID: Final = frozenset({"00", "A6"})  # the demos: A6 is a success, to be looked at by people
UNDER_WAY: Final = frozenset({"03", "04", "05"})  # the demos: query again
PAYING: Final = UNDER_WAY | {"70", "83"}
WAITING: Final = frozenset({"05", "70"})  # for the payer; 03, 04 and 83 speak of a debit that may have taken place
MONEY_MOVED: Final = frozenset({"42", "74", "75"})  # by their texts the payer was debited: never a failure

# pay: codes by which the platform refuses the request itself. Not here, because they say nothing about the attempt or
# pass by themselves: 11 (our key), 02, 06, 37, and whatever the table does not explain.
PAY_REFUSED: Final = frozenset({"10", "13", "30", "31", "32", "33", "38", "39", "43"})
# The payer's card or code was declined: final for a barcode, which is presented once. At a cashier page it is not: the
# payer takes another card there; the demos say that any failure before the payment time "may be intermediate".
DECLINED: Final = PAY_REFUSED | {
    *("44", "61", "62", "63", "64", "65", "66", "67", "68", "73", "86", "87", "88", "89", "90", "91"),
}
# refund, void: checked before anything moves. The demos query again on 01, 12 and 60, so those decide nothing.
REFUND_REFUSED: Final = frozenset({"10", "11", "13", "14", "30", "31", "32", "33", "35", "36", "38", "39", "45"})
# What a refund or void has become, in a query's origRespCode or a notification: the demos end at anything that is
# neither success nor 03, 04, 05. Left out: what is passing, undecided or unexplained, and duplicates.
REFUND_FAILED: Final = REFUND_REFUSED | {
    *("01", "40", "41", "43", "44", "46", "60", "61", "62", "63", "64", "65", "66", "67", "68", "69", "71", "73"),
    *("86", "87", "88", "89", "90", "91"),
}


def meaning(message: Message, name: str = "respCode") -> str:
    """A code with what it means, for people."""
    code, text = message.get(name, ""), message.get(name.replace("Code", "Msg"), "")
    return f"{name} {code[:8]} ({MEANINGS.get(code, 'not documented')}) {text[:128]}".rstrip()


# --- methods --------------------------------------------------------------------------------------------------------


class Product(msgspec.Struct, frozen=True):
    """What UnionPay calls a method: where it is asked for, in what words, and which field of the answer is wanted."""

    path: str
    sub_type: str
    biz_type: str
    channel_type: str
    answer: str = ""


# As in UnionPay's demos of each product.
PRODUCTS: Final = {
    "web": Product(FRONT, "01", "000201", "07"),
    "wap": Product(FRONT, "01", "000201", "08"),
    "app": Product(APP, "01", "000201", "08", "tn"),
    "qr": Product(BACK, "07", "000000", "08", "qrCode"),
    "barcode": Product(BACK, "06", "000000", "08"),
}

METHODS: Final[Mapping[str, Method]] = {
    method.name: method
    for method in (
        Method(
            name="web",
            about="a desktop browser submits the form and comes to UnionPay's page",
            credential=CredentialType.FORM,
        ),
        Method(
            name="wap",
            about="a phone's browser submits the form and comes to UnionPay's page",
            credential=CredentialType.FORM,
        ),
        Method(
            name="app",
            about="an application hands the transaction number `tn` to UnionPay's SDK",
            credential=CredentialType.PARAMS,
        ),
        Method(name="qr", about="the payer scans a QR code", credential=CredentialType.QR),
        Method(
            name="barcode",
            about="the payer shows a code, which is scanned and paid at once",
            credential=CredentialType.NONE,
            params=(
                Param(
                    name="qr_no",
                    about="the digits of the code that the payer shows",
                    required=True,
                    pattern=r"[0-9]{12,40}",
                ),
            ),
        ),
    )
}

# --- what can not be sent at all ------------------------------------------------------------------------------------

_NUMBER = re.compile(r"[0-9A-Za-z]{8,32}", re.ASCII)  # UnionPay takes 40, its bill holds 32
_QUERY_ID = re.compile(r"[0-9A-Za-z]{1,32}", re.ASCII)
_ADDRESS = re.compile(rf"https?://[!-~]{{1,{URL_CHARS_MAX - 8}}}", re.ASCII)
AMOUNT_MAX: Final = 10**12 - 1  # of twelve digits


def unacceptable_payment(request: PaymentRequest) -> str:
    """Why the platform can not take it, beginning with the field's name; empty if it can."""
    method = METHODS.get(request.attempt.method)
    if method is None:
        return f"method: {request.attempt.method} is not offered; possible: {', '.join(METHODS)}"
    if not _NUMBER.fullmatch(request.attempt.out_trade_no):
        return "out_trade_no: 8 to 32 letters and digits"
    if request.return_url and not _ADDRESS.fullmatch(request.return_url):
        return f"return_url: must be an address of at most {URL_CHARS_MAX} characters"
    return _unacceptable(request.amount, AMOUNT_MAX, request.currency, request.notify_url) or mistake_in(
        request.params, method
    )


def unacceptable_refund(request: RefundRequest, txn_type: str) -> str:
    """Why the platform can not take it, beginning with the field's name; empty if it can."""
    if not _NUMBER.fullmatch(request.refund.refund_no):
        return "refund_no: 8 to 32 letters and digits"
    if not _QUERY_ID.fullmatch(request.refund.channel_transaction):
        return "channel_transaction: UnionPay's queryId of the payment is needed"
    if txn_type == VOID and request.amount != request.total:
        return "amount: a void gives back all of it"
    return _unacceptable(request.amount, min(request.total, AMOUNT_MAX), request.currency, request.notify_url)


def _unacceptable(amount: int, amount_max: int, currency: str, notify_url: str) -> str:
    if currency != "CNY":
        return f"currency: must be CNY, not {currency}"
    if isinstance(amount, bool) or not 1 <= amount <= amount_max:
        return f"amount: must be 1 to {amount_max} fen"
    if not _ADDRESS.fullmatch(notify_url) or "?" in notify_url:  # what is behind it would come back among the fields
        return f"notify_url: must be an address of at most {URL_CHARS_MAX} characters without a query"
    return ""


_HARMFUL = frozenset("&={}[]\"'")  # the demos: not to stand in reqReserved
RESERVED_CHARS_MAX: Final = 256  # it takes 1024 bytes


def reserved(subject: str) -> str:
    """What is sold, as reqReserved: UnionPay gives it back in every notification and bill, for people to read."""
    clean = subject[:RESERVED_CHARS_MAX]
    if clean.isprintable() and _HARMFUL.isdisjoint(clean):
        return clean
    return "".join([" " if sign in _HARMFUL or not sign.isprintable() else sign for sign in clean])


# --- messages -------------------------------------------------------------------------------------------------------

# A part of an answer: `{...}` and `[...]` are opaque, as in UnionPay's own parser, and an open one runs to the end.
_PART = re.compile(rb"(?:[^&{\[]++|\{[^}]*+(?:\}|\Z)|\[[^\]]*+(?:\]|\Z))++")
_OPEN = re.compile(rb"\[[^\]&]*+(?:&|\Z)|\{[^}&]*+(?:&|\Z)")  # one of those may have an `&` inside


def read_answer(body: bytes) -> dict[bytes, bytes]:
    """The fields of a synchronous answer, which is not percent-encoded: a `+` is a plus, a line break a line break.

    Raises:
        FormError: a name that is there twice, or too many fields.
    """
    body = body.rstrip(b"\r\n")
    parts = _PART.findall(body) if _OPEN.search(body) else [part for part in body.split(b"&") if part]
    if len(parts) > forms.FIELDS_MAX:
        raise forms.FormError(f"more than {forms.FIELDS_MAX} fields")
    fields: dict[bytes, bytes] = {}
    for part in parts:
        name, _, value = part.partition(b"=")
        if name in fields:
            raise forms.FormError("a field is there twice")
        fields[name] = value
    return fields


def signed_text(fields: Mapping[bytes, bytes]) -> bytes:
    """What is signed of a message: all fields but the signature, without the empty ones, sorted by the bytes of their
    names, joined as they are; and of that the digest."""
    return digest(
        b"&".join([b"=".join(field) for field in sorted(fields.items()) if field[1] and field[0] != b"signature"])
    )


def digest(joined: bytes) -> bytes:
    """The SHA-256 in hex (of which RSA then takes the SHA-256 again)."""
    return b2a_hex(hashlib.sha256(joined).digest())


def texts(fields: Mapping[bytes, bytes], charset: str) -> dict[str, str]:
    """The fields as text, without the empty ones.

    Raises:
        FormError: bytes that are not text in this charset.
    """
    try:
        return {name.decode(): value.decode(charset) for name, value in fields.items() if value}
    except UnicodeDecodeError as error:
        raise forms.FormError(f"not {charset}") from error


# What is read of a notification.
_TELLING: Final = (
    *("txnType", "respCode", "origRespCode", "merId", "orderId", "queryId", "txnAmt", "txnTime", "traceTime"),
    *("currencyCode", "settleAmt", "settleCurrencyCode"),
)


def telling(fields: Mapping[str, str], charset: str) -> dict[str, str]:
    """Of a form's fields those that are read, without the empty ones. No text for people stands between us and money.

    Raises:
        FormError: bytes that are not text in this charset.
    """
    told = {name: value for name in _TELLING if (value := fields.get(name))}
    if told.get("respCode") not in PAID:
        told["respMsg"] = fields.get("respMsg", "")  # for people, who ask why
    if "".join(told.values()).isascii():
        return told
    return {name: forms.text(value, charset) for name, value in told.items()}


# --- what they mean -------------------------------------------------------------------------------------------------


def submitted(answer: Message, attempt: AttemptKey) -> PayOutcome:
    """What the answer to a sale says."""
    code, credential = answer.get("respCode", ""), METHODS[attempt.method].credential
    if credential is CredentialType.NONE:
        if code in PAID:
            return AlreadyPaid()
        if code in UNDER_WAY:
            return Accepted(Credential(credential, "", attempt.expires_at_s))
        refused = code in DECLINED
    else:
        shown = answer.get(PRODUCTS[attempt.method].answer, "")
        if code == OK and 1 <= len(shown) <= 512:
            value = msgspec.json.encode({"tn": shown}).decode() if credential is CredentialType.PARAMS else shown
            return Accepted(Credential(credential, value, attempt.expires_at_s))
        refused = code in PAY_REFUSED or code == DUPLICATE
    return Refused(code, meaning(answer)) if refused else Unknown(meaning(answer))


def state_of(answer: Message, attempt: AttemptKey, *, over: bool, long_over: bool) -> QueryOutcome:
    """What the answer to a query says of a sale. `over`, `long_over`: its payTimeout passed a margin, a long one ago.

    Until then a failure is none: the payer may try again. Then it is final, by the demos; and so, in the end, is a
    payment that waits for its payer, who has left the page.
    """
    code = answer.get("respCode", "")
    if code == NOT_FOUND:  # also of a form that nobody has submitted yet
        return ClosedAtChannel() if over else NotFound()
    if code != OK:
        return Unknown(meaning(answer))
    if answer.get("txnType") != SALE:
        return Unknown("the answer is about a trade that is no sale")
    original = answer.get("origRespCode", "")
    if original in PAID:
        payment = payment_of(answer)
        return Paid(payment) if payment else Unknown("paid, but the answer lacks amount, currency or queryId")
    said = meaning(answer, "origRespCode")
    if original in MONEY_MOVED or (over and original in PAYING - WAITING):
        return Debited(said)
    if original in PAYING:
        return ClosedAtChannel() if long_over else NotPaid()
    if original not in MEANINGS:
        return Unknown(said)
    declined = attempt.method == "barcode" and original in DECLINED
    return ClosedAtChannel() if over or declined else NotPaid()


def notified(message: Message) -> Notified:
    """What a notification says: a payment, or what became of a refund or void.

    Raises:
        NotificationRejected: it leaves out what a payment needs, or says nothing that moves anything (OTHER_EVENT).
    """
    code, txn_type = message.get("respCode", ""), message.get("txnType", "")
    if txn_type == SALE and code in PAID:
        payment = payment_of(message)
        if payment is None:
            raise NotificationRejected(RejectReason.UNREADABLE, "paid, but without amount, currency or queryId")
        return payment
    state = refund_state(code) if txn_type in (REFUND, VOID) else None
    if state in (RefundState.SUCCEEDED, RefundState.FAILED) and message.get("orderId"):
        return refund_of(message, state)
    raise NotificationRejected(RejectReason.OTHER_EVENT, f"txnType {txn_type[:8]}, {meaning(message)}")


def payment_of(message: Message) -> ChannelPayment | None:
    """The payment that a paid sale states; None if it leaves out what a payment needs."""
    amount, currency, at_s = _amount(message), _currency(message), _happened_at_s(message)
    number, query_id = message.get("orderId", ""), message.get("queryId", "")
    if amount is None or currency is None or at_s is None or not number or not query_id:
        return None
    return ChannelPayment(
        channel=NAME,
        account=message.get("merId", ""),
        out_trade_no=number,
        channel_transaction=query_id,
        amount=amount,
        currency=currency,
        success_at_s=at_s,
    )


def refund_state(code: str) -> RefundState | None:
    """What a code says of a refund or void that was taken; None if nothing certain."""
    if code in PAID:
        return RefundState.SUCCEEDED
    if code in UNDER_WAY:
        return RefundState.PROCESSING
    return RefundState.FAILED if code in REFUND_FAILED else None


def refund_of(message: Message, state: RefundState) -> ChannelRefund:
    """The refund or void that a message is about, in that state."""
    said = "origRespCode" if "origRespCode" in message else "respCode"
    return ChannelRefund(
        channel=NAME,
        account=message.get("merId", ""),
        refund_no=message.get("orderId", ""),
        state=state,
        channel_refund=message.get("queryId"),
        amount=_amount(message),
        currency=_currency(message) or "CNY",
        success_at_s=_happened_at_s(message) if state is RefundState.SUCCEEDED else None,
        detail=meaning(message, said) if state is RefundState.FAILED else "",
    )


_TRACE_TIME = re.compile(r"[0-9]{10}", re.ASCII)


def near(trace_time: str, near_s: int) -> int | None:
    """Unix seconds of `MMDDhhmmss`, in the year that brings it nearest to `near_s`; None if it is no such time."""
    if not _TRACE_TIME.fullmatch(trace_time):
        return None
    year = int(moments.compact(near_s)[:4])
    possible = [moments.of_compact(f"{each}{trace_time}") for each in (year - 1, year, year + 1)]
    return min((each for each in possible if each is not None), key=lambda each: abs(each - near_s), default=None)


def _happened_at_s(message: Message) -> int | None:
    """When a trade took place, by its traceTime, or its txnTime where there is none; None if it says neither.

    The platform states no moment of payment: in its genuine messages traceTime equals txnTime, which is ours.
    """
    txn_time, trace_time = message.get("txnTime", ""), message.get("traceTime", "")
    sent_at_s = moments.of_compact(txn_time)
    if sent_at_s is None or txn_time[4:] == trace_time:
        return sent_at_s
    traced_at_s = near(trace_time, sent_at_s)
    return sent_at_s if traced_at_s is None else traced_at_s


def _currency(message: Message) -> str | None:
    """What txnAmt is in: CNY, or XXX for any other currency, which nobody ordered; None if it is not said.

    `settleCurrencyCode` is what the merchant is settled in. It speaks for the trade only where nothing else does and
    the settled amount is the trade's.
    """
    code = message.get("currencyCode", "")
    if not code and message.get("settleAmt") == message.get("txnAmt"):
        code = message.get("settleCurrencyCode", "")
    if not code:
        return None
    return "CNY" if code == CNY else "XXX"


def _amount(message: Message) -> int | None:
    """txnAmt in fen; None if it is not a positive number."""
    return money.fen_of_digits(message.get("txnAmt", "")) or None
