"""The bench's HTTP framing finds bodies, waits for halves, and refuses what it does not speak."""

import pytest

from bench.latency import summarize
from bench.wire import frame, request, response


def test_a_whole_message_is_framed_and_what_follows_is_left_alone() -> None:
    message = response(200, b'{"a":1}', {"Content-Type": "application/json"})
    begins, ends = frame(message + b"HTTP/1.1 200") or (0, 0)
    assert message[begins:ends] == b'{"a":1}'
    assert ends == len(message)


def test_a_message_is_not_framed_before_its_last_byte() -> None:
    message = request("POST", "/v1/orders", b"0123456789")
    assert [frame(message[:length]) for length in range(len(message))] == [None] * len(message)
    assert frame(message) is not None


def test_the_length_is_found_however_it_is_written() -> None:
    assert frame(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab") == (38, 40)


@pytest.mark.parametrize("message", [b"HTTP/1.1 204 -\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_what_has_no_body_needs_no_length(message: bytes) -> None:
    assert frame(message) == (len(message), len(message))


def test_a_chunked_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="no Content-Length"):
        frame(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


def test_percentiles_are_exact() -> None:
    latency = summarize([number * 1_000_000 for number in range(100, 0, -1)])
    assert (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.max_ms) == (50.0, 90.0, 99.0, 100.0)


def test_one_latency_is_every_percentile() -> None:
    assert summarize([7_000_000]).p50_ms == summarize([7_000_000]).p99_ms == 7.0
