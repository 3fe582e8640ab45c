"""The course of chaos: load and faults by the timeline, everything healed, a quiet time, the audit, the verdict."""

import asyncio
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping

import aiohttp
import msgspec

from bench.auditor import Report, audit
from bench.chaos import on_databases, on_gateways, on_outside
from bench.chaos.invariants import LIVE, OPEN, Seen, Violation, violations
from bench.chaos.on_gateways import Inflict
from bench.chaos.stage import AFTERWARDS, PAY_AFTER_MAX_S, Stage
from bench.chaos.tables import Tables, read_inbox, read_tables
from bench.chaos.timeline import Fault, timeline

FAULTS: Mapping[str, Inflict] = {**on_gateways.FAULTS, **on_databases.FAULTS, **on_outside.FAULTS}

LOOK_EVERY_S = 1.0
STILL_S = PAY_AFTER_MAX_S + 2.0  # nothing new at the channels for so long: every payer has paid
QUIET_MAX_S = 120.0
HEALED_WITHIN_S = 60.0
TAIL = 10
TRESPASSES = 10
FINDINGS_SHOWN = 10
# Of a live attempt at another channel only the platform's own expiry is the end, which is minutes away.
CLOSED_BY_CALL = ("", "wechatpay")


class Result(msgspec.Struct, frozen=True):
    """What `--json` prints, in this order."""

    seed: int
    orders: int
    faults: dict[str, int]
    lost: int
    double: int
    violations: int
    recovery_s: float

    @property
    def passed(self) -> bool:
        """Whether there were orders and faults, and nothing came of the faults."""
        return bool(self.orders and self.faults) and not (self.lost or self.double or self.violations)


class Look(msgspec.Struct, frozen=True):
    """One look at everything."""

    report: Report
    seen: Seen
    found: list[Violation]

    @property
    def missing(self) -> str:
        """What is not as it should be, in a few words: how many findings of which name, and one of each."""
        findings = {name: getattr(self.report, name) for name in ("lost", "double", "phantom", "mismatch")}
        words = [f"{name} {len(found)} ({found[0].subject})" for name, found in findings.items() if found]
        counts = Counter(each.invariant for each in self.found)
        first = {each.invariant: each for each in reversed(self.found)}
        words += [f"{name} {count} ({first[name].subject}: {first[name].why})" for name, count in counts.items()]
        return "; ".join(words)

    @property
    def clean(self) -> bool:
        """Whether nothing is missing and everything holds."""
        return self.report.passed and not self.found


class Course:
    """One run on one stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._parts: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._counts: Counter[str] = Counter()

    async def run(self) -> Result:
        """Play it through."""
        stage, play = self._stage, self._stage.play
        say(f"seed {play.seed}: {play.rate:g} orders/s for {play.seconds:g} s through two gateways, and visitors")
        began = time.monotonic()
        await stage.start()
        disk = "a tmpfs" if stage.disk.mounted else "no disk of its own (mounting is not allowed), but a trigger"
        say(f"ready after {time.monotonic() - began:.1f} s; the events are on {disk}")
        await self._fail()
        recovery_s = await self._settle()
        look = await self._judge()
        self._verdict(look, recovery_s)
        # The databases are gone afterwards; the directory goes, too, if nothing is amiss.
        (stage.directory / "seen.json").write_bytes(msgspec.json.encode(look.seen))
        return Result(
            seed=play.seed,
            orders=len(look.seen.tables.orders),
            faults=dict(sorted(self._counts.items())),
            lost=len(look.report.lost),
            double=len(look.report.double),
            violations=len(look.found) + len(look.report.phantom) + len(look.report.mismatch),
            recovery_s=round(recovery_s, 1),
        )

    # --- faults

    async def _fail(self) -> None:
        """Every fault at its time; returns when the load has ended and each is healed."""
        seconds = self._stage.play.seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stage.visitors.come(lambda: self._elapsed_s() > seconds))
            for fault in timeline(self._stage.play.seed, seconds):
                group.create_task(self._inflict(fault))
            await asyncio.sleep(max(0.0, self._stage.start_at + seconds - time.time()))
        await self._stage.steer("/_faults", AFTERWARDS)

    async def _inflict(self, fault: Fault) -> None:
        await asyncio.sleep(max(0.0, self._stage.start_at + fault.at_s - time.time()))
        async with self._parts[fault.part]:  # what is down can not fail in a second way
            whom = f"{fault.kind} {fault.target}".strip()
            self._line("✗", whom)
            began = time.monotonic()
            async with asyncio.timeout(HEALED_WITHIN_S + fault.lasts_s):
                detail = await FAULTS[fault.kind](self._stage, fault)
            self._counts[fault.kind] += 1
            self._line("✓", f"{whom}: {detail + '; ' if detail else ''}healed after {time.monotonic() - began:.1f} s")

    # --- peace

    async def _settle(self) -> float:
        """Wait until everything has come to its end; seconds until for once nothing was missing and everything held."""
        began = still_since = time.monotonic()
        recovered_s, payments, missing = QUIET_MAX_S, -1, ""
        self._line("▸", "all is healed")
        while (now := time.monotonic()) < began + QUIET_MAX_S:
            look = await self._look()
            if len(look.seen.channel) != payments:
                payments, still_since = len(look.seen.channel), now
            if look.missing != missing:
                missing = look.missing
                self._line("▸", f"still to come: {missing}" if missing else "nothing is missing")
            if look.clean and recovered_s == QUIET_MAX_S:
                recovered_s = now - began
            if look.clean and now - still_since > STILL_S and await self._everybody_is_served(look.seen.tables):
                break
            await asyncio.sleep(LOOK_EVERY_S)
        return recovered_s

    async def _everybody_is_served(self, tables: Tables) -> bool:
        """Whether each of the shop's customers could pay, and no order is open that a call could close."""
        live = {attempt.order_id: attempt.channel for attempt in tables.attempts if attempt.state in LIVE}
        open_orders = [o for o in tables.orders if o.state in OPEN and live.get(o.order_id, "") in CLOSED_BY_CALL]
        try:
            async with self._stage.session.get(f"{self._stage.shop_url}/status") as answer:
                counted = await answer.json()
        except (aiohttp.ClientError, TimeoutError):
            return False
        return counted["orders"] == counted["payable"] and not open_orders

    async def _judge(self) -> Look:
        """The last questions, then everybody who writes is ended, and the books are read once more."""
        stage = self._stage
        tail = await stage.visitors.tail(TAIL)
        theirs = [order.order_id for order in (await read_tables(stage.postgres.url)).orders if order.app_id == "shop"]
        trespasses = await stage.visitors.trespass(theirs[:TRESPASSES])
        await stage.freeze()
        look = await self._look()
        seen = msgspec.structs.replace(look.seen, tail_failures=tail, trespasses=trespasses, leaks=self._leaks())
        return Look(look.report, seen, violations(seen))

    async def _look(self) -> Look:
        """What apps were told is read first, then the channel, then the tables: those can only know more."""
        stage = self._stage
        inbox = await asyncio.to_thread(read_inbox, stage.shop_ledger)
        history = stage.visitors.history.copied()
        ledgers = await stage.ledgers()
        seen = Seen(
            tables=await read_tables(stage.postgres.url),
            history=history,
            channel=ledgers.payments,
            inbox=inbox,
            redirects_followed=stage.endpoint.followed,
        )
        return Look(audit(ledgers), seen, violations(seen))

    def _leaks(self) -> list[str]:
        """The logs in which a key or a secret stands."""
        return [
            path.name
            for path in sorted(self._stage.directory.glob("*.log"))
            if any(secret in path.read_text("utf-8", "replace") for secret in self._stage.secrets)
        ]

    # --- what is shown

    def _elapsed_s(self) -> float:
        return time.time() - self._stage.start_at

    def _line(self, sign: str, what: str) -> None:
        say(f"t={self._elapsed_s():5.1f}s {sign} {what}")

    def _verdict(self, look: Look, recovery_s: float) -> None:
        report, history = look.report, look.seen.history
        say(
            f"audit: {len(look.seen.tables.orders)} orders, paid at channel {report.paid_at_channel}, here"
            f" {report.paid_here}, told {report.told}; visitors: {len(history.made)} answers, {len(history.refused)}"
            f" refused, {history.silent} silent, {len(history.reads)} reads; recovered after {recovery_s:.1f} s"
        )
        kinds = Counter(payment.kind for payment in look.seen.tables.payments)
        states = Counter(order.state for order in look.seen.tables.orders)
        refunds = Counter(f"{refund.cause} {refund.state}" for refund in look.seen.tables.refunds)
        say(f"payments: {dict(kinds)}; states: {dict(states)}; refunds: {dict(refunds)}")
        cases = Counter(f"{case.reason} {'closed' if case.resolved else 'open'}" for case in look.seen.tables.cases)
        say(f"cases: {dict(cases)}")
        for name in ("lost", "double", "phantom", "mismatch"):
            findings = getattr(report, name)
            say(f"  {name} {len(findings)}")
            for finding in findings[:FINDINGS_SHOWN]:
                say(f"    {finding.subject}: {finding.why}")
        say(f"  violations {len(look.found)}")
        for found in look.found[:FINDINGS_SHOWN]:
            say(f"    {found.invariant} {found.subject}: {found.why}")


def say(text: str) -> None:
    """On stderr: stdout is for the result."""
    print(text, file=sys.stderr, flush=True)
