"""What goes wrong at Alipay beside what goes wrong everywhere, and what is merely odd there."""

from channels.simulator.faults import Faults, Share


class AlipayFaults(Faults, frozen=True, forbid_unknown_fields=True):
    """Of notifications: `wrong_app`, `wrong_seller`: Alipay's own word on a trade of somebody else that has our number;
    `wrong_amount`: another amount than was signed; `waiting`: that the payer has entered, and not paid. Each comes
    first, and the genuine one after it. `gbk`: the genuine one is GBK; `empties_signed`, `empties_unsigned`: it has
    empty values, which are part of what is signed or are not.

    Of requests: error_before and error_after are answered 20000, without and with the request executed; rate_limited
    40005. `unsigned_error`: 20000 again, executed and not signed; `bad_gateway`: a page of a proxy, executed.
    `answer_tamper`, `answer_unsigned`, `answer_wrong_key`: executed, and answered with a lie under such a signature;
    `answer_other`: executed, and answered with the truth about another trade.

    Of answers, notifications and trades: `odd_values`: values with braces, `"sign":"` and what separates fields;
    `finished`: what is paid can not be refunded any more; `create_once`: a second code of a number is refused.

    Of refunds: `no_fund_change`: done, and said to have moved no money; `refund_unseen`: the query does not know it
    this time; `bank_card`: it is on its way to a bank; `not_enough`: the merchant's balance is too low this time;
    `closed_notice`: the app is also told when all of a trade was given back.

    Of statements: `bill_link`: the address has expired, this time; `bill_calendar`: the real calendar holds.
    """

    wrong_app: Share = 0.0
    wrong_seller: Share = 0.0
    wrong_amount: Share = 0.0
    waiting: Share = 0.0
    gbk: Share = 0.0
    empties_signed: Share = 0.0
    empties_unsigned: Share = 0.0
    unsigned_error: Share = 0.0
    bad_gateway: Share = 0.0
    answer_tamper: Share = 0.0
    answer_unsigned: Share = 0.0
    answer_wrong_key: Share = 0.0
    answer_other: Share = 0.0
    odd_values: Share = 0.0
    finished: Share = 0.0
    create_once: Share = 0.0
    no_fund_change: Share = 0.0
    refund_unseen: Share = 0.0
    bank_card: Share = 0.0
    not_enough: Share = 0.0
    closed_notice: Share = 0.0
    bill_link: Share = 0.0
    bill_calendar: Share = 0.0
