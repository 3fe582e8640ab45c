"""What a connection of the load says: one generator a connection, yielding requests and being sent answers.

Bodies are put together from bytes made before the clock starts, so that a script costs well under a microsecond a
request. A script that gets an answer it does not expect raises: figures with errors in them are not figures.
"""

from collections.abc import Generator, Iterator
from typing import NamedTuple, TypeAlias

from bench.wire import HEAD_END

AMOUNT = 1999  # of every order, in fen


class Answer(NamedTuple):
    """What came back for a script's last request."""

    status: int
    body: bytes


Script: TypeAlias = Generator[bytes, Answer, None]


class UnexpectedAnswerError(Exception):
    """The server answered something else than the bench is about."""


def expect(answer: Answer, *statuses: int) -> None:
    """Let only these statuses pass.

    Raises:
        UnexpectedAnswerError: another status.
    """
    if answer.status not in statuses:
        raise UnexpectedAnswerError(f"expected {statuses}, got {answer.status}: {answer.body[:500]!r}")


class Requests:
    """The requests of a run, as bytes. `run` keeps the orders of two runs apart; every order has its own buyer."""

    def __init__(self, api_key: str, run: str) -> None:
        """For the app that holds `api_key`."""
        self._head = f"Host: bench\r\nAuthorization: Bearer {api_key}\r\nContent-Type: application/json\r\n"
        self._order = (
            b'{"out_order_no":"%b-%%08d","amount":%d,"currency":"CNY","subject":"A cup of tea",'
            b'"buyer":"%b-%%08d"}' % (run.encode(), AMOUNT, run.encode())
        )
        body_bytes = len(self._order % (0, 0))
        self._create = self._post("/v1/orders", body_bytes).replace(b"%", b"%%") + self._order
        self._pay_body = b'{"channel":"wechatpay","method":"native"}'
        self._pay = b"POST /v1/orders/%b/pay" + self._post("", len(self._pay_body))[len("POST ") :] + self._pay_body
        self._close = b"POST /v1/orders/%b/close" + self._post("", 0)[len("POST ") :]
        self._get = b"GET /v1/orders/%b HTTP/1.1\r\n" + self._head.encode() + b"\r\n"

    def _post(self, target: str, body_bytes: int) -> bytes:
        return f"POST {target} HTTP/1.1\r\n{self._head}Content-Length: {body_bytes}".encode() + HEAD_END

    def create(self, number: int) -> bytes:
        """Create order `number`."""
        return self._create % (number, number)

    def pay(self, order_id: bytes) -> bytes:
        """Pay an order by WeChat Pay Native."""
        return self._pay % order_id

    def close(self, order_id: bytes) -> bytes:
        """Close an order."""
        return self._close % order_id

    def get(self, order_id: bytes) -> bytes:
        """Read an order."""
        return self._get % order_id


def order_id_of(body: bytes) -> bytes:
    """The first `order_id` in an answer."""
    at = body.index(b'"order_id":"') + 12
    return body[at : at + 26]


def echo(requests: Requests, numbers: Iterator[int]) -> Script:
    """The same bytes as `create`, for a server that only says them back."""
    for number in numbers:
        expect((yield requests.create(number)), 200)


def create(requests: Requests, numbers: Iterator[int]) -> Script:
    """Create orders."""
    for number in numbers:
        expect((yield requests.create(number)), 201)


def create_and_close(requests: Requests, numbers: Iterator[int]) -> Script:
    """Create orders and close each at once: an insert and an update of the same row, without a channel."""
    for number in numbers:
        answer = yield requests.create(number)
        expect(answer, 201)
        expect((yield requests.close(order_id_of(answer.body))), 200)


def create_and_pay(requests: Requests, numbers: Iterator[int], payable: list[bytes]) -> Script:
    """Create orders and make each payable; `payable` gets their ids."""
    for number in numbers:
        answer = yield requests.create(number)
        expect(answer, 201)
        order_id = order_id_of(answer.body)
        expect((yield requests.pay(order_id)), 200)
        payable.append(order_id)


def deliver(notifications: Iterator[bytes]) -> Script:
    """Deliver notifications that were signed before."""
    for notification in notifications:
        expect((yield notification), 200)
