"""What a channel costs in CPU beside the RSA that nobody can spare it: one prepay, one verified notification.

The flow of a prepay is driven with the answers that the simulated platform signed for it, recorded before: nothing is
sent and the platform costs nothing. RSA is timed where it happens, inside the flow: there it costs a fifth more than
in a loop of its own, and what comes after it finds cold caches, too. Operations take turns in short rounds, and of each
the median round counts: a neighbour who takes the core for a while spoils a round of one of them, no more.
"""

import gc
import subprocess
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

from bench.accounts import METHODS
from bench.simulated import Simulated
from channels import signing
from channels.contract import Accepted, AttemptKey, Channel, ChannelPayment, PaymentRequest, Request, Response, Stamp
from channels.simulator.key_files import make_key
from channels.simulator.platforms import load_platforms

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

GC_THRESHOLDS = (50_000, 20, 100)  # as gateway/app.py sets them
CALIBRATIONS = 20_000
ROUND_S = 0.01  # of one operation in one round
ROUNDS_MIN = 9
MESSAGE = b"0123456789abcdef" * 4  # as long as what UnionPay signs; longer messages cost a hash, not RSA
ORDER_ID = "01HZZZZZZZZZZZZZZZZZZZZZZ0"
EXPIRES_AFTER_S = 1_800

Operation = Callable[[], object]


class Cost(NamedTuple):
    """CPU microseconds of one operation, and of the RSA in it."""

    whole_us: float
    rsa_us: float

    @property
    def own_us(self) -> float:
        """All but RSA."""
        return self.whole_us - self.rsa_us

    @property
    def own(self) -> float:
        """Its share of the whole."""
        return self.own_us / self.whole_us


class Costs(NamedTuple):
    """One signature and one verification by `channels/signing.py`, and a prepay and a notification of each channel."""

    sign: Cost
    verify: Cost
    prepay: Mapping[str, Cost]
    notification: Mapping[str, Cost]


def measure(channels: Mapping[str, Channel], folder: Path, seconds: float) -> Costs:
    """Of all these channels, whose platforms' keys stand in `folder`, for so many seconds each operation."""
    key = make_key()
    public, signature = key.public_key(), signing.sign(key, MESSAGE)
    operations: dict[tuple[str, str], Operation] = {
        ("sign", ""): lambda: signing.sign(key, MESSAGE),
        ("verify", ""): lambda: signing.verify(public, MESSAGE, signature),
    }
    for name, channel in channels.items():
        operations["prepay", name] = prepay(channel, folder)
        operations["notification", name] = notification(channel, folder)
    with _as_in_the_gateway():
        costs = medians(operations, max(ROUNDS_MIN, int(seconds / ROUND_S)))
    return Costs(
        sign=costs["sign", ""],
        verify=costs["verify", ""],
        prepay={name: costs["prepay", name] for name in channels},
        notification={name: costs["notification", name] for name in channels},
    )


@contextmanager
def _as_in_the_gateway() -> Iterator[None]:
    """The collector looks at new objects only, and seldom."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def medians(operations: Mapping[K, Operation], rounds: int) -> dict[K, Cost]:
    """CPU time of each, measured in turn."""
    clock = _RsaClock()
    counts = {
        name: max(1, int(ROUND_S * 1e6 / clock.cost(operation, 3).whole_us)) for name, operation in operations.items()
    }
    taken: dict[K, list[Cost]] = {name: [] for name in operations}
    for _ in range(rounds):
        for name, operation in operations.items():
            taken[name].append(clock.cost(operation, counts[name]))
    return {
        name: Cost(median(cost.whole_us for cost in each), median(cost.rsa_us for cost in each))
        for name, each in taken.items()
    }


class _RsaClock:
    """Reads the CPU clock around every RSA operation of `channels/signing.py`, and takes off what that costs."""

    def __init__(self) -> None:
        self._spent_ns = self._operations = 0
        self._inside_ns = self._outside_ns = 0.0
        self._calibrate()

    def cost(self, operation: Operation, count: int) -> Cost:
        """The mean of `count` times."""
        self._spent_ns = self._operations = 0
        sign: Callable[..., str] = signing.sign
        verify: Callable[..., bool] = signing.verify
        with (
            patch.object(signing, "sign", lambda key, message: sign(_Timed(key, self), message)),
            patch.object(signing, "verify", lambda key, *said: verify(_Timed(key, self), *said)),
        ):
            began_ns = time.thread_time_ns()
            for _ in range(count):
                operation()
            whole_ns = time.thread_time_ns() - began_ns
        rsa_ns = self._spent_ns - self._operations * self._inside_ns
        whole_ns -= int(self._operations * (self._inside_ns + self._outside_ns))
        return Cost(whole_ns / count / 1e3, rsa_ns / count / 1e3)

    def timed(self, work: Callable[..., T], *arguments: object) -> T:
        """Do it, by the clock."""
        began_ns = time.thread_time_ns()
        try:
            return work(*arguments)
        finally:
            self._spent_ns += time.thread_time_ns() - began_ns
            self._operations += 1

    def _calibrate(self) -> None:
        """What is measured of nothing, and what measuring costs beside that."""
        began_ns = time.thread_time_ns()
        for _ in range(CALIBRATIONS):
            _Timed(_Nothing(), self).verify(b"", b"", None, None)
        whole_ns = time.thread_time_ns() - began_ns
        self._inside_ns = self._spent_ns / CALIBRATIONS
        self._outside_ns = whole_ns / CALIBRATIONS - self._inside_ns


class _Timed:
    """A key whose work is timed; `signing` asks no more of a key."""

    __slots__ = ("_clock", "_key")

    def __init__(self, key: Any, clock: _RsaClock) -> None:
        self._key, self._clock = key, clock

    def sign(self, *said: object) -> object:
        return self._clock.timed(self._key.sign, *said)

    def verify(self, *said: object) -> object:
        return self._clock.timed(self._key.verify, *said)


class _Nothing:
    __slots__ = ()

    def verify(self, *_: object) -> None:
        """At once."""


# --- the operations ---------------------------------------------------------------------------------------------------


def prepay(channel: Channel, folder: Path) -> Operation:
    """One `pay`: its request built and signed, its answer verified and read."""
    platform = Simulated(load_platforms(folder, 1)[channel.name], time.time)
    request, stamp = _request(channel), Stamp(int(time.time()), "0" * 32)
    answers: list[Response] = []

    def record(asked: Request) -> Response:
        answers.append(platform.answer(asked))
        return answers[-1]

    assert isinstance(_drive(channel, request, stamp, record), Accepted), "the platform takes it"
    assert len(answers) == 1, "a prepay is one request"
    outcome = _drive(channel, request, stamp, lambda _: answers[0])
    assert isinstance(outcome, Accepted), outcome
    return lambda: _drive(channel, request, stamp, lambda _: answers[0])


def _drive(channel: Channel, request: PaymentRequest, stamp: Stamp, answer: Callable[[Request], Response]) -> object:
    flow = channel.pay(request, stamp)
    try:
        asked = next(flow)
        while True:
            asked = flow.send(answer(asked))
    except StopIteration as end:
        return end.value


def notification(channel: Channel, folder: Path) -> Operation:
    """One notification, verified and read."""
    platform = Simulated(load_platforms(folder, 1)[channel.name], time.time)
    now_s = int(time.time())
    platform.converse(channel.pay(_request(channel), Stamp(now_s, "0" * 32)))
    [trade] = platform.trades.all()
    platform.pay(trade)
    notice = platform.notice(trade)
    headers, body = {name.lower(): value for name, value in notice.headers.items()}, notice.body
    assert isinstance(channel.notification(headers, body, now_s), ChannelPayment), "it is genuine"
    return lambda: channel.notification(headers, body, now_s)


def _request(channel: Channel) -> PaymentRequest:
    now_s = int(time.time())
    return PaymentRequest(
        attempt=AttemptKey(f"{ORDER_ID}01", METHODS[channel.name], now_s, now_s + EXPIRES_AFTER_S),
        amount=1_999,
        currency="CNY",
        subject="A cup of tea",
        notify_url=f"https://pay.example.com/callbacks/{channel.name}/{ORDER_ID}/01",
    )


def openssl_speed(seconds: int) -> tuple[float, float] | str:
    """RSA-2048 signatures and verifications a second, by `openssl speed`; or why there is no such figure."""
    try:
        command = ["openssl", "speed", "-seconds", str(seconds), "rsa2048"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=20 + 4 * seconds, check=True).stdout
        words = next(line for line in said.splitlines() if line.startswith(("rsa 2048", "rsa  2048"))).split()
        return float(words[-2]), float(words[-1])
    except FileNotFoundError:
        return "there is no openssl here"
    except (subprocess.SubprocessError, StopIteration, ValueError, IndexError) as error:
        return f"openssl speed said nothing we understand ({type(error).__name__})"
