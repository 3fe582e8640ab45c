"""Just enough HTTP/1.1 framing for a bench: where a message's body begins and ends, by its Content-Length.

Both ends of it are ours or the gateway's, so what a bench never meets (chunked bodies, folded headers) is an error
here and not a case. What it buys is a generator and a stub that cost a few microseconds a message beside what they
measure.
"""

HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length:"
NO_BODY_STATUSES = frozenset({b"204", b"304"})


def frame(data: bytes) -> tuple[int, int] | None:
    """Where the body of the first message in `data` begins and ends; None while it is incomplete.

    Raises:
        ValueError: a message without Content-Length that should have one.
    """
    head_end = data.find(HEAD_END)
    if head_end < 0:
        return None
    begins = head_end + 4
    ends = begins + _length(data, head_end)
    return (begins, ends) if len(data) >= ends else None


def _length(data: bytes, head_end: int) -> int:
    at = data.find(b"Content-Length:", 0, head_end)
    if at < 0:
        at = data[:head_end].lower().find(LENGTH)
    if at < 0:
        return _length_unsaid(data, head_end)
    line_end = data.find(b"\r\n", at)
    return int(data[at + len(LENGTH) : line_end])


def _length_unsaid(data: bytes, head_end: int) -> int:
    bodiless_answer = data.startswith(b"HTTP/") and data[9:12] in NO_BODY_STATUSES
    if bodiless_answer or data.startswith((b"GET ", b"DELETE ")):
        return 0
    raise ValueError(f"no Content-Length in {data[:head_end]!r}")


def request(method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a request on a connection that is kept alive."""
    lines = [f"{method} {target} HTTP/1.1", "Host: bench", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + HEAD_END + body


def response(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """The bytes of an answer."""
    lines = [f"HTTP/1.1 {status} -", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + HEAD_END + body
