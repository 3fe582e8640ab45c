"""How money goes back: the refunds of an order, each with a state of its own. Pure.

A refund is written down before its channel hears of it, and keeps its number whatever happens: the channel knows it by
that, so sending it again can not move money twice. Silence never becomes a failure. What did not fail counts as given
back, and that never exceeds what was paid. Only where a number has come to its end at the channel, by the channel's own
word, is what we owe given back under another one.
"""

import hashlib

import msgspec

from actors import deadlines
from actors.deadlines import STEP_MAX, Schedule
from actors.effects import Effect, Query, QueryRefund, SubmitRefund
from actors.events import (
    RefundNotFound,
    RefundOutcomeUnknown,
    RefundRefused,
    RefundReported,
    RefundRequested,
    RefundsDue,
    RefundWord,
)
from actors.order import (
    GIVEN_UP,
    Announcement,
    AttemptState,
    Decision,
    Order,
    Payment,
    Reason,
    Refund,
    RefundCause,
    RefundState,
    Reply,
    Settlement,
)

REFUNDS_MAX = 50  # of one payment; WeChat Pay takes no more
PROCESSING_RUNGS = 28  # repetitions of the last rung, seven days by default, until somebody looks at what takes so long
TOO_LATE = "too_late"  # refused because the number could only be sent for a while: it never was, and never will be
OVERPAID = "succeeded after it failed: more went back than was paid"
REFUND_TROUBLES = (Reason.REFUND_FAILED, Reason.REFUND_ABNORMAL, Reason.REFUND_UNKNOWN)

SUBMITTING, UNKNOWN, PROCESSING = RefundState.SUBMITTING, RefundState.UNKNOWN, RefundState.PROCESSING
SUCCEEDED, FAILED, ABNORMAL = RefundState.SUCCEEDED, RefundState.FAILED, RefundState.ABNORMAL

replace = msgspec.structs.replace


# --- beginning ------------------------------------------------------------------------------------------------------


def refund_requested(order: Order, event: RefundRequested, schedule: Schedule) -> Decision:
    """The app asks for money back; the same number again is the same refund."""
    same = next((refund for refund in order.refunds if refund.out_refund_no == event.out_refund_no), None)
    if same is not None:
        equal = (same.amount, same.reason) == (event.amount, event.reason)
        return Decision(order, Reply.DONE if equal else Reply.REFUND_CONFLICT)
    credit = order.credit
    assert credit is not None, "a paid order has its credit"
    if _exhausted(order, credit):
        return Decision(order, Reply.REFUNDS_EXHAUSTED)
    if order.refunded_amount + event.amount > order.paid_amount:
        return Decision(order, Reply.REFUND_EXCEEDS_PAID)
    refund_id = _refund_id(order, "R", event.out_refund_no)
    refund = _new(refund_id, RefundCause.APP, credit, event.amount, event.at_ms, schedule)
    refund = replace(refund, out_refund_no=event.out_refund_no, reason=event.reason)
    return Decision(with_refund(order.advanced(), refund), Reply.WAIT, (SubmitRefund(refund_id),))


def give_back(order: Order, payment: Payment, cause: RefundCause, at_ms: int, schedule: Schedule) -> Refund:
    """The refund of all of a payment that the order must not keep.

    Its number is derived from the channel's transaction: whoever learns of that payment, even in a database that has
    forgotten it, gives it back under the same number, and the channel does it once.
    """
    refund_id = _refund_id(order, "X", payment.channel, payment.account, payment.transaction)
    return _new(refund_id, cause, payment, payment.amount, at_ms, schedule)


def _new(refund_id: str, cause: RefundCause, payment: Payment, amount: int, at_ms: int, schedule: Schedule) -> Refund:
    return Refund(
        refund_id=refund_id,
        cause=cause,
        number=payment.number,
        channel=payment.channel,
        account=payment.account,
        transaction=payment.transaction,
        amount=amount,
        state=SUBMITTING,
        started_at_ms=at_ms,
        submitted_at_ms=at_ms,
        next_check_at_ms=deadlines.refund_check(schedule, 0, at_ms),
    )


def _refund_id(order: Order, letter: str, *names: str) -> str:
    """32 characters that follow from what is refunded; counted on in the rare case that another refund has them."""
    count = 0
    while True:
        text = "\0".join((*names, str(count)) if count else names)
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) >> 7
        digits = "".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[number >> shift & 31] for shift in (20, 15, 10, 5, 0))
        refund_id = f"{order.order_id}{letter}{digits}"
        if order.refund(refund_id) is None:
            return refund_id
        count += 1


# --- what the channel says ------------------------------------------------------------------------------------------


def refund_reported(order: Order, event: RefundReported, schedule: Schedule) -> Decision:
    """The channel's word on a refund, by query, answer or notification."""
    refund = order.refund(event.refund_id)
    if refund is None:
        return Decision(order, effects=_ask_whether_paid(order, event.channel))
    if (refund.channel, refund.account) != (event.channel, event.account):
        return Decision(order)
    if event.amount not in (None, refund.amount):
        message = f"the channel speaks of {event.amount} instead of {refund.amount}"
        return _abnormal(order, refund, event, message, schedule)
    match event.word:
        case RefundWord.SUCCEEDED:
            return _succeeded(order, refund, event, schedule)
        case RefundWord.FAILED:
            return _failed(order, refund, RefundWord.FAILED, event.detail, event.at_ms, schedule)
        case RefundWord.ABNORMAL:
            return _abnormal(order, refund, event, event.detail, schedule)
        case RefundWord.PROCESSING:
            return _processing(order, refund, event, schedule)


def _ask_whether_paid(order: Order, channel: str) -> tuple[Query, ...]:
    """What goes back was paid before: an order that knows of neither has the payment asked after first."""
    if order.credit is not None:
        return ()
    unpaid = (attempt for attempt in order.attempts if attempt.live or attempt.state is AttemptState.CLOSED)
    return tuple(Query(attempt.number) for attempt in unpaid if attempt.channel == channel)


def _succeeded(order: Order, refund: Refund, event: RefundReported, schedule: Schedule) -> Decision:
    if refund.state is SUCCEEDED:
        return Decision(order)
    if refund.state in GIVEN_UP and not _room_for(order, refund):
        # It moved after all, and its money was given away again meanwhile: more went back than was ever paid.
        return _case_once(order, refund, Reason.REFUND_BEYOND_PAID, OVERPAID)
    after = replace(
        refund,
        state=SUCCEEDED,
        channel_refund=event.channel_refund or refund.channel_refund,
        succeeded_at_ms=event.success_at_ms or event.at_ms,
        failure_code=None,
        failure_message=None,
        next_check_at_ms=None,
    )
    moved = with_refund(order.advanced(), after)
    if refund.failure_code and not troubled(moved):
        settles: Settlement | None = Settlement(REFUND_TROUBLES, "refunded")
    else:
        settles = _known_again(moved, refund, schedule, "refunded")
    return Decision(moved, announce=Announcement.REFUND_SUCCEEDED, about=refund.refund_id, settles=settles)


def _known_again(after: Order, refund: Refund, schedule: Schedule, resolution: str) -> Settlement | None:
    """Nobody knew of it for so long that people were told, and now its channel has spoken. `refund` is as it was."""
    told_at = _patience(refund, schedule)
    if told_at is None or refund.step < told_at or troubled(after):
        return None
    return Settlement((Reason.REFUND_UNKNOWN,), resolution)


def _failed(order: Order, refund: Refund, code: str, message: str, at_ms: int, schedule: Schedule) -> Decision:
    if refund.state in GIVEN_UP:
        return Decision(order)
    reversed_ = refund.state is SUCCEEDED
    after = replace(
        refund,
        state=RefundState.REVERSED if reversed_ else FAILED,
        failure_code=code,
        failure_message=message[:200],
        next_check_at_ms=None,
    )
    moved = with_refund(order.advanced(), after)
    if reversed_:
        announce, case = Announcement.REFUND_REVERSED, Reason.REFUND_REVERSED
        return Decision(moved, announce=announce, case=case, about=refund.refund_id)
    # What the app asked for it can ask for again; what we owe somebody is for people, or only has to be sent in time.
    anew = _anew(moved, after, at_ms, schedule) if code == TOO_LATE and refund.cause is not RefundCause.APP else None
    if anew is not None:
        return Decision(with_refund(moved, anew), effects=(SubmitRefund(anew.refund_id),))
    case_ = None if refund.cause is RefundCause.APP else Reason.REFUND_FAILED
    settles = _known_again(moved, refund, schedule, "failed")
    return Decision(moved, announce=Announcement.REFUND_FAILED, case=case_, about=refund.refund_id, settles=settles)


def _abnormal(order: Order, refund: Refund, event: RefundReported, message: str, schedule: Schedule) -> Decision:
    if refund.state is ABNORMAL:
        return Decision(order)
    if refund.state in GIVEN_UP:
        return _case_once(order, refund, Reason.REFUND_ABNORMAL, message)
    if refund.state is SUCCEEDED:  # nobody asks after it any more: from here on somebody does
        refund = replace(refund, step=0, next_check_at_ms=deadlines.refund_check(schedule, 0, event.at_ms))
    after = replace(
        refund,
        state=ABNORMAL,
        channel_refund=event.channel_refund or refund.channel_refund,
        failure_code=RefundWord.ABNORMAL,
        failure_message=message[:200],
        succeeded_at_ms=None,
        next_check_at_ms=refund.next_check_at_ms or deadlines.refund_check(schedule, refund.step, event.at_ms),
    )
    return Decision(with_refund(order.advanced(), after), case=Reason.REFUND_ABNORMAL)


def _processing(order: Order, refund: Refund, event: RefundReported, schedule: Schedule) -> Decision:
    if refund.state not in (SUBMITTING, UNKNOWN):
        return Decision(order)
    after = replace(
        refund,
        state=PROCESSING,
        channel_refund=event.channel_refund or refund.channel_refund,
        step=0,
        next_check_at_ms=deadlines.refund_check(schedule, 0, event.at_ms),
        failure_code=None,
        failure_message=None,
    )
    moved = with_refund(order.advanced(), after)
    return Decision(moved, settles=_known_again(moved, refund, schedule, "processing"))


def _case_once(order: Order, refund: Refund, case: Reason, message: str) -> Decision:
    """A case for people, without moving the refund; its message says that it was opened."""
    if refund.failure_message == message[:200]:
        return Decision(order)
    return Decision(with_refund(order.advanced(), replace(refund, failure_message=message[:200])), case=case)


def refund_refused(order: Order, event: RefundRefused, schedule: Schedule) -> Decision:
    """A definite no is the end of a refund that was sent once; an earlier sending may have moved the money."""
    refund = order.refund(event.refund_id)
    if refund is None or refund.state is not SUBMITTING:
        return Decision(order)
    if refund.submits == 1:
        return _failed(order, refund, event.code, event.message, event.at_ms, schedule)
    after = replace(refund, state=UNKNOWN, failure_code=event.code, failure_message=event.message[:200])
    return Decision(with_refund(order.advanced(), after), effects=(QueryRefund(refund.refund_id),))


def refund_not_found(order: Order, event: RefundNotFound, schedule: Schedule) -> Decision:
    """Unknown at the channel: sent again under its number, or, if it was refused since, failed.

    But not before none of the earlier sendings can be on its way still: its money would go back although the app had
    been told that it does not, and had perhaps asked for it under another number.
    """
    refund = order.refund(event.refund_id)
    if refund is None or refund.state not in (SUBMITTING, UNKNOWN):
        return Decision(order)
    if refund.failure_code is not None:
        final_ms = refund.submitted_at_ms + schedule.not_found_final_ms
        if event.at_ms >= final_ms or refund.failure_code == TOO_LATE:  # of that its channel has waited for the end
            return _failed(order, refund, refund.failure_code, refund.failure_message or "", event.at_ms, schedule)
        if (refund.next_check_at_ms or 0) <= final_ms:
            return Decision(order)
        return Decision(with_refund(order.advanced(), replace(refund, next_check_at_ms=final_ms)))
    return Decision(_sent_again(order, refund, event.at_ms, schedule), effects=(SubmitRefund(refund.refund_id),))


def _sent_again(order: Order, refund: Refund, at_ms: int, schedule: Schedule) -> Order:
    after = replace(
        refund,
        state=SUBMITTING,
        submits=min(refund.submits + 1, STEP_MAX),
        submitted_at_ms=at_ms,
        failure_code=None,
        failure_message=None,
        next_check_at_ms=deadlines.refund_check(schedule, refund.step, at_ms),
    )
    return with_refund(order.advanced(), after)


def refund_outcome_unknown(order: Order, event: RefundOutcomeUnknown, _: Schedule) -> Decision:
    """Silence: its ladder asks."""
    refund = order.refund(event.refund_id)
    if refund is None or refund.state is not SUBMITTING:
        return Decision(order)
    return Decision(with_refund(order.advanced(), replace(refund, state=UNKNOWN)))


# --- time and people ------------------------------------------------------------------------------------------------


def refunds_due(order: Order, event: RefundsDue, schedule: Schedule) -> Decision:
    """Ask after the refunds whose moment has come."""
    due = [refund for refund in order.refunds if refund.open and _is_due(order, refund, event)]
    if not due:
        return Decision(order)
    after, case = order.advanced(), None
    for refund in due:
        step = min(refund.step + 1, STEP_MAX)
        next_ms = deadlines.refund_check(schedule, step, event.at_ms)
        after = with_refund(after, replace(refund, step=step, next_check_at_ms=next_ms))
        if step == _patience(refund, schedule):
            case = Reason.REFUND_UNKNOWN
    return Decision(after, effects=tuple(QueryRefund(refund.refund_id) for refund in due), case=case)


def _patience(refund: Refund, schedule: Schedule) -> int | None:
    """After how many rungs people are told, once. The channel may take a week for what it has taken."""
    if refund.state in (SUBMITTING, UNKNOWN):
        return len(schedule.refund_ms)
    return len(schedule.refund_ms) + PROCESSING_RUNGS if refund.state is PROCESSING else None


def _is_due(order: Order, refund: Refund, event: RefundsDue) -> bool:
    if event.claimed_version is not None:
        return event.claimed_version == order.version and refund.refund_id in event.claimed
    return refund.next_check_at_ms is not None and event.at_ms >= refund.next_check_at_ms


def troubled(order: Order) -> tuple[Refund, ...]:
    """What people may have sent again: failed although we owe it, or stuck."""
    return tuple(refund for refund in order.refunds if _troubled(order, refund))


def _troubled(order: Order, refund: Refund) -> bool:
    if refund.state in GIVEN_UP:
        return refund.cause is not RefundCause.APP and _room_for(order, refund)
    return refund.state in (UNKNOWN, ABNORMAL)


def send_again(
    order: Order, refunds: tuple[Refund, ...], at_ms: int, schedule: Schedule
) -> tuple[Order, tuple[Effect, ...]]:
    """These refunds, from the first rung: under their numbers, unless those have come to their end at the channel.

    Of several that failed to give back the same payment one is sent: one whose number is still good, else the newest.
    The order's version moves by one.
    """
    version, sent = order.version + 1, list[Effect]()
    newest_first = refunds[::-1]
    for refund in sorted(newest_first, key=_spent):
        if not _troubled(order, refund):
            continue  # another refund of the same money was sent again a moment ago
        anew = _anew(order, refund, at_ms, schedule) if _spent(refund) else None
        order = (
            _sent_again(order, replace(refund, step=0), at_ms, schedule) if anew is None else with_refund(order, anew)
        )
        sent.append(SubmitRefund(refund.refund_id if anew is None else anew.refund_id))
    return replace(order, version=version), tuple(sent)


def _spent(refund: Refund) -> bool:
    """Whether the channel will never again move money under its number: there it failed, or it can not be sent."""
    return refund.state in GIVEN_UP and refund.failure_code in (RefundWord.FAILED, TOO_LATE)


def _anew(order: Order, refund: Refund, at_ms: int, schedule: Schedule) -> Refund | None:
    """The refund of the same money under the next number, if there is money and room for it."""
    payment = _payment_of(order, refund)
    if payment is None or _exhausted(order, payment):
        return None
    return give_back(order, payment, refund.cause, at_ms, schedule)


def _exhausted(order: Order, payment: Payment) -> bool:
    return sum(refund.gives_back(payment) for refund in order.refunds) >= REFUNDS_MAX


def _payment_of(order: Order, refund: Refund) -> Payment | None:
    return next((payment for payment in order.payments if refund.gives_back(payment)), None)


def _room_for(order: Order, refund: Refund) -> bool:
    payment = _payment_of(order, refund)
    return payment is not None and order.refunding(payment) + refund.amount <= payment.amount


def with_refund(order: Order, refund: Refund) -> Order:
    """The order with this refund in its place, and with what of its credit is given back. Its version stays."""
    others = tuple(other for other in order.refunds if other.refund_id != refund.refund_id)
    place = next((i for i, other in enumerate(order.refunds) if other.refund_id == refund.refund_id), len(others))
    refunds = (*others[:place], refund, *others[place:])
    after = replace(order, refunds=refunds)
    credit = after.credit
    return after if credit is None else replace(after, refunded_amount=after.refunding(credit))
