"""What a channel costs in CPU beside the RSA that nobody can spare it: one prepay, one verified notification.

The flow of a prepay is driven with the answers that the simulated platform signed for it, recorded before: nothing is
sent and the platform costs nothing. Operations take turns in short rounds, and of each the median round counts: a
neighbour who takes the core for a while spoils a round of one of them, not the comparison.
"""

import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from bench.accounts import METHODS
from bench.simulated import Simulated
from channels import signing
from channels.contract import Accepted, AttemptKey, Channel, ChannelPayment, PaymentRequest, Request, Response, Stamp
from channels.simulator.key_files import make_key
from channels.simulator.platforms import load_platforms

ROUND_S = 0.01  # of one operation in one round
ROUNDS_MIN = 9
MESSAGE = b"0123456789abcdef" * 4  # as long as what UnionPay signs; longer messages cost a hash, not RSA
ORDER_ID = "01HZZZZZZZZZZZZZZZZZZZZZZ0"
EXPIRES_AFTER_S = 1_800

RSA_SIGN, RSA_VERIFY, SIGN, VERIFY = "rsa sign", "rsa verify", "sign", "verify"

Operation = Callable[[], object]


class Costs(NamedTuple):
    """CPU microseconds: of the bare RSA operations, of ours around them, of each channel's prepay and notification."""

    rsa_sign_us: float
    rsa_verify_us: float
    sign_us: float
    verify_us: float
    prepay_us: Mapping[str, float]
    notification_us: Mapping[str, float]

    def own_prepay(self, channel: str) -> tuple[float, float]:
        """Microseconds beside one signature and one verification, and their share of the whole."""
        own_us = self.prepay_us[channel] - self.rsa_sign_us - self.rsa_verify_us
        return own_us, own_us / self.prepay_us[channel]

    def own_notification(self, channel: str) -> tuple[float, float]:
        """Microseconds beside one verification, and their share of the whole."""
        own_us = self.notification_us[channel] - self.rsa_verify_us
        return own_us, own_us / self.notification_us[channel]


def measure(channels: Mapping[str, Channel], folder: Path, seconds: float) -> Costs:
    """Of all these channels, whose platforms' keys stand in `folder`, for so many seconds each operation."""
    operations = _rsa()
    for name, channel in channels.items():
        operations |= {f"{name} prepay": prepay(channel, folder), f"{name} notification": notification(channel, folder)}
    us = medians(operations, max(ROUNDS_MIN, int(seconds / ROUND_S)))
    return Costs(
        rsa_sign_us=us[RSA_SIGN],
        rsa_verify_us=us[RSA_VERIFY],
        sign_us=us[SIGN],
        verify_us=us[VERIFY],
        prepay_us={name: us[f"{name} prepay"] for name in channels},
        notification_us={name: us[f"{name} notification"] for name in channels},
    )


def medians(operations: Mapping[str, Operation], rounds: int) -> dict[str, float]:
    """CPU microseconds of each, measured in turn."""
    counts = {name: max(1, int(ROUND_S * 1e6 / _us(operation, 3))) for name, operation in operations.items()}
    taken: dict[str, list[float]] = {name: [] for name in operations}
    for _ in range(rounds):
        for name, operation in operations.items():
            taken[name].append(_us(operation, counts[name]))
    return {name: median(each) for name, each in taken.items()}


def _us(operation: Operation, count: int) -> float:
    began_ns = time.thread_time_ns()
    for _ in range(count):
        operation()
    return (time.thread_time_ns() - began_ns) / count / 1e3


def _rsa() -> dict[str, Operation]:
    key = make_key()
    public, padding, digest = key.public_key(), PKCS1v15(), SHA256()
    raw = key.sign(MESSAGE, padding, digest)
    signature = signing.sign(key, MESSAGE)
    return {
        RSA_SIGN: lambda: key.sign(MESSAGE, padding, digest),
        RSA_VERIFY: lambda: public.verify(raw, MESSAGE, padding, digest),
        SIGN: lambda: signing.sign(key, MESSAGE),
        VERIFY: lambda: signing.verify(public, MESSAGE, signature),
    }


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
