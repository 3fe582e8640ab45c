"""What Alipay says by itself: notifications, and the query it sends a payer back with. Verified, then read."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from channels import forms, signing
from channels.alipay_wire import NAME, STATES_PAID, account_of, currency_of, is_number, time_of
from channels.contract import ChannelPayment, ChannelRefund, Notified, RefundState, RejectReason
from channels.errors import NotificationRejected
from channels.money import fen_of_yuan

TRADE_NOTICE: Final = "trade_status_sync"


class Notice(msgspec.Struct, frozen=True):
    """The fields of a notification that are read. Absent and empty are the same."""

    app_id: str = ""
    seller_id: str = ""
    notify_type: str = ""
    notify_time: str = ""
    out_trade_no: str = ""
    trade_no: str = ""
    trade_status: str = ""
    total_amount: str = ""
    gmt_payment: str = ""
    gmt_refund: str = ""
    refund_fee: str = ""
    out_biz_no: str = ""
    trans_currency: str = ""


_UNSIGNED: Final = ("sign", "sign_type")  # signed with the second, no message of its sandbox would verify
_NAMES: Final = Notice.__struct_fields__


def verified(body: bytes, keys: Iterable[RSAPublicKey]) -> Mapping[str, str]:
    """The fields of a form that Alipay signed.

    They stay what `forms.read` makes of them: the signature is over the bytes, in whatever charset the form names, and
    nothing that is read needs to know it.

    Raises:
        NotificationRejected: not a form, or not signed by one of these keys.
    """
    try:
        form = forms.read(body)
    except forms.FormError as error:
        raise NotificationRejected(RejectReason.MALFORMED, str(error)) from error
    signature = form.fields.get("sign", "")
    if form.fields.get("sign_type") != "RSA2" or not signature:
        raise NotificationRejected(RejectReason.BAD_SIGNATURE, "no sign, or sign_type is not RSA2")
    message = form.string(_UNSIGNED, empties=True)
    if not _signed_by(keys, message, signature):
        # Its SDKs sign empty values, its docs leave them out.
        short = form.string(_UNSIGNED)
        if short == message or not _signed_by(keys, short, signature):
            raise NotificationRejected(RejectReason.BAD_SIGNATURE, "does not verify with Alipay's key")
    if form.holds_other_fields():
        raise NotificationRejected(RejectReason.MALFORMED, "a field stands in another one")
    return form.fields


def read(fields: Mapping[str, str], now_s: int) -> Notified:
    """What a verified notification states.

    Raises:
        NotificationRejected: it can not be read, or it is about something else (OTHER_EVENT).
    """
    notice = _notice(fields)
    if notice.notify_type != TRADE_NOTICE:
        raise NotificationRejected(RejectReason.OTHER_EVENT, notice.notify_type[:64])
    # A refund has no notification of its own. A trade that ended unpaid may carry refund_fee=0.00, too.
    if notice.out_biz_no and (notice.gmt_refund or fen_of_yuan(notice.refund_fee)):
        return _refund(notice)
    if notice.trade_status not in STATES_PAID:
        raise NotificationRejected(RejectReason.OTHER_EVENT, notice.trade_status[:64])
    return _payment(notice, now_s)


def _signed_by(keys: Iterable[RSAPublicKey], message: bytes, signature: str) -> bool:
    return any(signing.verify(key, message, signature) for key in keys)


def _notice(fields: Mapping[str, str]) -> Notice:
    values = [fields.get(name, "") for name in _NAMES]
    whole = "".join(values)
    if not (whole.isascii() and whole.isprintable()):
        raise NotificationRejected(RejectReason.UNREADABLE, "a number, a time or an amount is not plain text")
    return Notice(*values)


def _payment(notice: Notice, now_s: int) -> ChannelPayment:
    amount, currency = fen_of_yuan(notice.total_amount), currency_of(notice.trans_currency)
    if not (amount and currency and is_number(notice.trade_no) and is_number(notice.out_trade_no)):
        raise NotificationRejected(RejectReason.UNREADABLE, "paid, but without amount, transaction or our number")
    return ChannelPayment(
        channel=NAME,
        account=account_of(notice.app_id, notice.seller_id),
        out_trade_no=notice.out_trade_no,
        channel_transaction=notice.trade_no,
        amount=amount,
        currency=currency,
        success_at_s=time_of(notice.gmt_payment) or time_of(notice.notify_time) or now_s,
    )


def _refund(notice: Notice) -> ChannelRefund:
    """The amount of this refund is not stated: `refund_fee` is the sum of all refunds of the trade."""
    if not is_number(notice.out_biz_no) or not is_number(notice.out_trade_no):
        raise NotificationRejected(RejectReason.OTHER_EVENT, "a refund by a number that is not ours")
    return ChannelRefund(
        channel=NAME,
        account=account_of(notice.app_id, notice.seller_id),
        refund_no=notice.out_biz_no,
        state=RefundState.SUCCEEDED,
        out_trade_no=notice.out_trade_no,
        success_at_s=time_of(notice.gmt_refund),
        detail=f"refunded in all: {notice.refund_fee[:32]}",
    )
