"""What goes wrong at UnionPay beside what goes wrong everywhere."""

from channels.simulator.faults import Faults, Share


class UnionpayFaults(Faults, frozen=True, forbid_unknown_fields=True):
    """Of notifications: `forged` with a certificate that somebody signed for himself in UnionPay's name, `wrong_name`
    with one of our authorities in another name, `expired` with UnionPay's own of last year, `unsigned`, `downgrade` of
    version 5.0.0, `lf` with the certificate's line ends changed: such a one comes first and the genuine one after it.
    `url_query`: the genuine one comes to the address with a query behind it.

    Of all that is signed: `rotation` by a new certificate; `empty_fields` there are fields with nothing in them.

    Of requests: `answer_forged`, ... `answer_tamper`: executed, and answered with a lie under such a signature.

    Of payments: `pending` and `moved`: the first two queries after it say 03, 04, 05 or 42, 74, 75; `defect` it is A6
    instead of 00. Of barcodes: `barcode_pending` the answer and the first two queries say 03, 04 or 05;
    `barcode_declined` the bank says no.

    Of refunds and voids: `refund_pending` taken, but answered 03, 04 or 05; `refund_failed` what it comes to;
    `void_late` the settlement day is over.

    Of statements: `bill_calendar` the real calendar holds: a settlement day ends at 23:00, its file is there at nine.
    """

    forged: Share = 0.0
    wrong_name: Share = 0.0
    expired: Share = 0.0
    unsigned: Share = 0.0
    downgrade: Share = 0.0
    lf: Share = 0.0
    url_query: Share = 0.0
    rotation: Share = 0.0
    empty_fields: Share = 0.0
    answer_forged: Share = 0.0
    answer_wrong_name: Share = 0.0
    answer_expired: Share = 0.0
    answer_unsigned: Share = 0.0
    answer_downgrade: Share = 0.0
    answer_lf: Share = 0.0
    answer_tamper: Share = 0.0
    pending: Share = 0.0
    moved: Share = 0.0
    defect: Share = 0.0
    barcode_pending: Share = 0.0
    barcode_declined: Share = 0.0
    refund_pending: Share = 0.0
    refund_failed: Share = 0.0
    void_late: Share = 0.0
    bill_calendar: Share = 0.0
