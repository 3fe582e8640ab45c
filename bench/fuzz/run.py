"""One channel's run: every mutant through the channel in this process, and over HTTP through the gateway; then the
books are read, and then the genuine notifications come and credit."""

import asyncio
import gc
import time
from collections.abc import Callable, Iterator, Sequence

from bench.fuzz.corpus import SACRIFICED, Kind, Scene, Wanted, make_corpus, make_scene, true_words
from bench.fuzz.judged import Judged
from bench.fuzz.message import Mutant, Voucher
from bench.fuzz.report import ChannelReport, cost, latency
from bench.fuzz.sending import Sender
from bench.fuzz.stage import Books, Order, Stage

ORDERS = 6  # whose genuine notifications are mutated, beside the sacrificed ones
RENEWED_EVERY_S = 60.0  # WeChat Pay's signatures are good for five minutes

Progress = Callable[[int], None]


async def run_channel(stage: Stage, kind: Kind, *, seed: int, count: int, progress: Progress) -> ChannelReport:
    """Fuzz one channel of a stage."""
    orders = await stage.orders(kind.channel, SACRIFICED + ORDERS)
    scene = make_scene(kind, stage.parties, orders)
    judged = Judged(kind, scene.channel, seed)
    judged.use(make_corpus(kind, scene))
    mutants = judged.mutants(count)
    sender = Sender(stage.host, stage.port, lambda: next(mutants, None), judged.complain)
    renewing = asyncio.create_task(_renew(judged, kind, scene))
    telling = asyncio.create_task(_tell(judged, progress))
    gc.freeze()
    gc.disable()  # a collection in the middle of a message would be charged for it; `Handling` collects in between
    began = time.perf_counter()
    try:
        await sender.run()
    except OSError as error:
        judged.blame(f"the gateway can not be reached any more: {error}")
    finally:
        gc.enable()
        renewing.cancel()
        telling.cancel()
    seconds = time.perf_counter() - began
    credited = await _audit(stage, scene, orders, judged) if stage.gateway.running else 0
    if not stage.gateway.running:
        judged.blame("the gateway ended")
    sent = len(sender.latencies)
    return ChannelReport(
        channel=kind.channel,
        mutants=judged.drawn,
        neutral=judged.neutral,
        sent=sent,
        seconds=round(seconds, 3),
        per_s=round(sent / seconds, 1),
        connections=sender.connections,
        verdicts=dict(judged.handling.verdicts),
        statuses=dict(sender.statuses),
        handling=cost(judged.handling.taken_ns, judged.handling.slowest),
        http=latency(sender.latencies),
        orders=ORDERS,
        credited=credited,
        findings=tuple(judged.findings),
    )


async def _renew(judged: Judged, kind: Kind, scene: Scene) -> None:
    while True:
        await asyncio.sleep(RENEWED_EVERY_S)
        judged.use(await asyncio.to_thread(make_corpus, kind, scene))


async def _tell(judged: Judged, progress: Progress) -> None:
    while True:
        progress(judged.drawn)
        await asyncio.sleep(1.0)


# --- the books --------------------------------------------------------------------------------------------------------


async def _audit(stage: Stage, scene: Scene, wanted: Sequence[Wanted], judged: Judged) -> int:
    """How many orders the genuine notifications credit, after it was seen that nothing else did."""
    sacrificed = {order.out_trade_no[:-2] for order in wanted[:SACRIFICED]}
    fuzzed = {order.out_trade_no[:-2] for order in wanted[SACRIFICED:]}
    for complaint in wrong_in(await stage.books(), fuzzed, sacrificed, scene.channel.account):
        judged.blame(complaint)
    genuine = iter([Mutant(at, "genuine", each, Voucher.PLATFORM) for at, each in enumerate(true_words(scene))])
    delivery = Sender(stage.host, stage.port, lambda: next(genuine, None), judged.complain)
    await delivery.run()
    orders = (await stage.books()).orders
    credited = [order_id for order_id in fuzzed if _whole(orders[order_id])]
    if len(credited) != len(fuzzed):
        answers = dict(delivery.statuses)
        judged.blame(f"of {len(fuzzed)} genuine notifications {len(credited)} credited; they were answered {answers}")
    return len(credited)


def _whole(order: Order) -> bool:
    return order.state == "paid" and order.paid_amount == order.amount


def wrong_in(books: Books, fuzzed: set[str], sacrificed: set[str], account: str) -> Iterator[str]:
    """What mutants should not have brought about. A sacrificed order may hold what the platform said of it."""
    for order_id in sorted(fuzzed):
        if books.orders[order_id].state != "paying":
            yield f"order {order_id} is {books.orders[order_id].state}"
    for payment in books.payments:
        if payment.order_id in fuzzed:
            yield f"a payment was recorded: {payment}"
        if payment.order_id in sacrificed and payment.kind == "credit":
            ordered = (books.orders[payment.order_id].amount, "CNY", account)
            if (payment.amount, payment.currency, payment.account) != ordered:
                yield f"wrongly credited: {payment}"
