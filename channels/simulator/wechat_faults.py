"""What goes wrong at WeChat Pay beside what goes wrong everywhere."""

from channels.simulator.faults import Faults, Share


class WechatFaults(Faults, frozen=True, forbid_unknown_fields=True):
    """Of notifications: `probe`, `stale`, `wrong_serial`: a SIGNTEST signature, an old timestamp, a serial nobody knows
    come first and the genuine one after them. `certificate_share`: signed by a platform certificate instead of the
    public key; `rotation`: of what certificates sign, by the new one, which is also listed as soon as this is above 0.

    Of requests: `accepted` a 202, not executed. `answer_probe`, `answer_stale`, `answer_wrong_serial`, `answer_tamper`,
    `answer_unsigned`: executed, and answered with a lie under such a signature: that the trade is closed, the refund
    failed, the code another one.

    Of refunds: `not_enough` the merchant's balance is too low this time; `refund_closed`, `refund_abnormal` what they
    come to; `refund_minute` a second one of a trade must wait for a minute.

    Of statements: `bill_hash` not the file that was announced, this time; `bill_calendar` the real calendar holds: none
    of today, and that of yesterday only after ten o'clock.
    """

    probe: Share = 0.0
    stale: Share = 0.0
    wrong_serial: Share = 0.0
    certificate_share: Share = 0.0
    rotation: Share = 0.0
    accepted: Share = 0.0
    answer_probe: Share = 0.0
    answer_stale: Share = 0.0
    answer_wrong_serial: Share = 0.0
    answer_tamper: Share = 0.0
    answer_unsigned: Share = 0.0
    not_enough: Share = 0.0
    refund_closed: Share = 0.0
    refund_abnormal: Share = 0.0
    refund_minute: Share = 0.0
    bill_hash: Share = 0.0
    bill_calendar: Share = 0.0
