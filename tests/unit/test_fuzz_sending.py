"""The fuzz's sender counts every answer, starts again where a connection ended, and blames nobody wrongly."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from bench.fuzz import sending
from bench.fuzz.message import Message, Mutant, Voucher
from bench.fuzz.sending import CONNECTIONS, Sender
from bench.serving import Exchange
from bench.wire import response


@asynccontextmanager
async def serving(protocol: Callable[[], asyncio.Protocol]) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def sent(
    port: int, count: int, voucher: Voucher = Voucher.NOBODY, body: bytes = b"x"
) -> tuple[Sender, list[tuple[int, str]]]:
    mutants = iter(Mutant(number, "test", Message(b"/", (), body), voucher) for number in range(count))
    complaints: list[tuple[int, str]] = []
    sender = Sender(
        "127.0.0.1", port, lambda: next(mutants, None), lambda mutant, what: complaints.append((mutant.number, what))
    )
    async with asyncio.timeout(20):
        await sender.run()
    return sender, complaints


def answering(status: int, headers: dict[str, str] | None = None) -> Callable[[], asyncio.Protocol]:
    return lambda: Exchange(lambda _head, _body: response(status, b"{}", headers))


async def test_every_mutant_is_sent_once_and_its_refusal_counted() -> None:
    async with serving(answering(400)) as port:
        sender, complaints = await sent(port, 500)
    assert sender.statuses == {400: 500}
    assert len(sender.latencies) == 500
    assert sender.connections == CONNECTIONS
    assert complaints == []


async def test_an_acknowledgement_is_a_complaint_unless_the_platform_vouches() -> None:
    async with serving(answering(200)) as port:
        _, complaints = await sent(port, 3)
        assert sorted(complaints) == [(number, "acknowledged with 200") for number in range(3)]
        _, complaints = await sent(port, 3, Voucher.PLATFORM)
        assert complaints == []


async def test_a_5xx_is_a_complaint_whoever_vouches() -> None:
    async with serving(answering(503)) as port:
        _, complaints = await sent(port, 1, Voucher.PLATFORM)
    assert complaints == [(0, "answered 503")]


async def test_a_refusal_that_says_so_ends_its_connection_and_the_next_goes_out_on_another() -> None:
    async with serving(answering(400, {"Connection": "close"})) as port:
        sender, complaints = await sent(port, 40)
    assert sender.statuses == {400: 40}
    assert sender.connections >= 40
    assert complaints == []


class HangsUpAfterAnAnswer(Exchange):
    """As a server does that does not read the rest of a body."""

    def __init__(self) -> None:
        super().__init__(lambda _head, _body: response(413, b"{}"))

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._transport.close()


async def test_a_connection_that_is_closed_behind_an_answer_is_nobodys_fault() -> None:
    async with serving(HangsUpAfterAnAnswer) as port:
        sender, complaints = await sent(port, 60)
    assert sender.statuses == {413: 60}
    assert complaints == []


class HangsUp(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.close()


async def test_a_mutant_that_makes_the_server_hang_up_is_blamed_and_the_others_are_still_sent() -> None:
    async with serving(HangsUp) as port:
        sender, complaints = await sent(port, 30)
    assert sorted(number for number, _ in complaints) == list(range(30))
    assert {what for _, what in complaints} == {"no answer, the connection was closed"}
    assert sender.statuses == {}


async def test_a_server_that_says_nothing_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SILENCE_S", 0.2)
    monkeypatch.setattr(sending, "WATCH_S", 0.05)
    async with serving(asyncio.Protocol) as port:
        _, complaints = await sent(port, 2)
    assert [number for number, _ in sorted(complaints)] == [0, 1]


async def test_an_answer_in_pieces_is_one_answer_and_a_large_body_arrives_whole() -> None:
    bodies: list[int] = []

    def answer(_head: bytes, body: bytes) -> bytes:
        bodies.append(len(body))
        return response(400, b"y" * 200_000)

    async with serving(lambda: Exchange(answer)) as port:
        sender, complaints = await sent(port, 20, body=b"x" * 70_000)
    assert sender.statuses == {400: 20}
    assert bodies == [70_000] * 20
    assert complaints == []


async def test_a_server_that_is_gone_is_an_os_error() -> None:
    async with serving(answering(400)) as port:
        pass
    with pytest.raises(ConnectionRefusedError):
        await sent(port, 1)
