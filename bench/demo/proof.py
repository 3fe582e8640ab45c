"""The course of the demo: raise the stage, let customers come, kill, let things settle, freeze, audit."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable

import msgspec

from bench.auditor import ChannelReport, Report, audit
from bench.demo import configuration
from bench.demo.figures import Moment, Watch
from bench.demo.kills import kill_moments
from bench.demo.picture import Picture
from bench.demo.stage import Stage

LOOK_EVERY_S = 0.5
STILL_MAX_S = 60.0  # nothing has moved on any side for so long: what is missing now is missing
SETTLE_MAX_S = 300.0
MARGIN_S = 1.5


class Result(msgspec.Struct, frozen=True):
    """What `--json` prints, in this order."""

    seed: int
    orders: int
    paid_at_channel: int
    paid_here: int
    told: int
    kills: int
    excess: int
    given_back: int
    lost: int
    double: int
    phantom: int
    mismatch: int
    control_lost: int
    channels: dict[str, ChannelReport] = {}

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, doubled, invented or changed. Where nothing was paid, nothing is proven."""
        return self.paid_at_channel > 0 and not (self.lost or self.double or self.phantom or self.mismatch)


class Proof:
    """One run on one stage. `drain` set: no more orders, no more kills, settle and audit."""

    def __init__(self, stage: Stage, picture: Picture, drain: asyncio.Event) -> None:
        self._stage = stage
        self._picture = picture
        self._drain = drain
        self._kills = 0
        self._seen = Moment({})

    async def run(self, *, freeze: bool) -> Result:
        """Play it through.

        Args:
            freeze: end all who write before the audit; false leaves them running.
        """
        await self._raise_stage()
        watch = Watch(self._stage)
        try:
            await self._play(watch)
            settled_after_s = await self._settle(watch)
        finally:
            await watch.close()
        if freeze:
            await self._stage.freeze()
        report = audit(await self._stage.ledgers())
        result = self._result(report)
        self._picture.verdict(report, result.channels, settled_after_s)
        return result

    async def _raise_stage(self) -> None:
        stage, play = self._stage, self._stage.play
        databases = self._step("databases", "PostgreSQL (fsync on) and Valkey, embedded", stage.start_databases())
        await asyncio.gather(databases, stage.make_accounts())
        names = ", ".join(play.channels)
        await self._step("channels", f"{names}, simulated: {play.faults.said()}", stage.start_channels())
        if play.faults.nasty:
            self._picture.say("nasty", play.faults.said_of_nasty(play.channels))
        await self._step("gateway", stage.gateway_url, stage.start_gateway())
        await self._step("shop, control", f"{play.rate:g} orders/s for {play.seconds:g} s each", stage.start_arms())
        self._picture.say("clock", configuration.said())

    async def _step(self, what: str, detail: str, work: Awaitable[None]) -> None:
        began = time.monotonic()
        await work
        self._picture.say(what, detail, time.monotonic() - began)

    async def _play(self, watch: Watch) -> None:
        killer = asyncio.create_task(self._kill())
        try:
            while self._elapsed_s() < self._stage.play.seconds and not self._drain.is_set():
                await self._look(watch, "selling")
                if killer.done():
                    killer.result()
        except BaseException:
            killer.cancel()
            raise
        if self._drain.is_set():
            self._picture.say("stopping", "no more orders; the rest settles, then the audit. Ctrl-C again ends at once")
            self._stage.close_tills()
        await killer

    async def _kill(self) -> None:
        for moment_s in kill_moments(self._stage.play.seed, self._stage.play.seconds):
            await _wait(self._drain, self._stage.start_at + moment_s - time.time())
            if self._drain.is_set():
                return
            kill = await self._stage.kill_and_restart()
            self._kills += 1
            self._picture.killed(kill)

    async def _settle(self, watch: Watch) -> float:
        """Wait until every customer was served, every payer has paid, every notification that comes has come, and
        nothing is missing."""
        play = self._stage.play
        quiet_s = max(play.pay_after_max_s, play.faults.delay_s) + MARGIN_S
        began = quiet_since = still_since = time.monotonic()
        last = self._seen
        while (now_s := time.monotonic()) < min(began + SETTLE_MAX_S, still_since + STILL_MAX_S):
            now = await self._look(watch, "settling")
            quiet_since = now_s if _under_way(now) != _under_way(last) else quiet_since
            still_since = now_s if now != last else still_since
            last = now
            everybody_served = now.total.payable == now.total.orders
            if now_s - quiet_since >= quiet_s and everybody_served and audit(await self._stage.ledgers()).passed:
                break
        return time.monotonic() - began

    async def _look(self, watch: Watch, phase: str) -> Moment:
        self._seen = moment = await watch.look()
        self._picture.show(self._elapsed_s(), moment, phase)
        await asyncio.sleep(LOOK_EVERY_S)
        return moment

    def _elapsed_s(self) -> float:
        return max(0.0, time.time() - self._stage.start_at)

    def _result(self, report: Report) -> Result:
        return Result(
            seed=self._stage.play.seed,
            orders=report.orders,
            paid_at_channel=report.paid_at_channel,
            paid_here=report.paid_here,
            told=report.told,
            kills=self._kills,
            excess=report.excess,
            given_back=report.given_back,
            lost=len(report.lost),
            double=len(report.double),
            phantom=len(report.phantom),
            mismatch=len(report.mismatch),
            control_lost=len(report.control_lost),
            channels={**dict.fromkeys(self._stage.play.channels, ChannelReport()), **report.channels},
        )


def _under_way(moment: Moment) -> tuple[int, ...]:
    """What changes as long as a customer, a payer or a notification is on the way, on either side."""
    figures = moment.total
    return (figures.orders, figures.payable, figures.control_orders, figures.paid_at_channel)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), max(0.0, seconds))
