"""Nothing secret reaches a log line, and no value can forge one."""

import asyncio
import io
import json
import logging
import os
import pty
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from gateway import logs

CARD = 4111111111111111


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def lines_of(*, production: bool = True, **fields: Any) -> list[str]:
    stream = io.TextIOWrapper(io.BytesIO(), write_through=True)
    logs.configure(production=production, stream=stream)
    structlog.get_logger().info("happened", **fields)
    return written_to(stream).splitlines()


def written_to(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


def line_of(**fields: Any) -> dict[str, Any]:
    (line,) = lines_of(**fields)
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def test_a_line_is_one_json_object_with_time_and_level() -> None:
    line = line_of(order_id="01ABC", rows=3, ratio=0.5, ok=True, nothing=None)
    assert line["timestamp"].endswith("Z")
    del line["timestamp"]
    expected = {"event": "happened", "level": "info", "order_id": "01ABC", "rows": 3, "ratio": 0.5, "ok": True}
    assert line == {**expected, "nothing": None}


def test_a_pipe_gets_json_also_in_development() -> None:
    (line,) = lines_of(production=False, rows=1)
    assert json.loads(line)["rows"] == 1


def test_a_terminal_gets_readable_lines_with_the_same_redaction() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        logs.configure(production=False, stream=terminal)
        structlog.get_logger().info("happened", api_key="canary", order_id="01ABC")
        shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "happened" in shown
    assert "01ABC" in shown
    assert "canary" not in shown
    assert not shown.startswith("{")


@pytest.mark.parametrize(
    "name",
    [
        "key",
        "api_key",
        "secret",
        "webhook_secret",
        "Authorization",
        "authorization",
        "private_key",
        "api_v3_key",
        "apiV3Key",
        "private_key_pem",
        "master_key_file_content",
        "password",
        "x-api-key",
        "token",
        "signature",
        "credential",
        "body",
    ],
)
def test_a_secrets_name_hides_its_value(name: str) -> None:
    for value in ("canary", ["canary"], {"inner": "canary"}, 123456, b"canary"):
        assert line_of(**{name: value})[name] == "***"
        assert line_of(nested={"deeper": [{name: value}]})["nested"]["deeper"][0][name] == "***"


@pytest.mark.parametrize(
    "name", ["order_id", "out_order_no", "keyboard", "monkey_business", "secretary", "param", "key_id"]
)
def test_other_names_show_theirs(name: str) -> None:
    assert line_of(**{name: "value"})[name] == "value"


@pytest.mark.parametrize(
    "text",
    [
        "called with hk_canary_canary_canary",
        "secret whsec_canaryCanaryCanary==",
        "Authorization: Bearer canary.canary.canary",
        "postgresql://user:canary@host/db",
        "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\ncanary, cut off",
    ],
)
def test_what_looks_like_a_secret_is_masked_wherever_it_stands(text: str) -> None:
    lines = lines_of(detail=text) + lines_of(error=ValueError(text)) + lines_of(deep={"x": [text]})
    assert "canary" not in "".join(lines).lower()
    assert "***" in "".join(lines)


def test_exceptions_and_the_libraries_lines_are_redacted_too() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), write_through=True)
    logs.configure(production=True, stream=stream)
    try:
        raise ValueError("hk_canary_canary")
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("aiohttp.server").exception("failed %s", "hk_canary_canary")
    lines = [json.loads(line) for line in written_to(stream).splitlines()]
    assert [line["exception"].splitlines()[-1] for line in lines] == ["ValueError: ***"] * 2
    assert lines[1]["logger"] == "aiohttp.server"
    assert "canary" not in written_to(stream)


async def test_context_is_bound_to_the_task_that_bound_it() -> None:
    async def one(order_id: str) -> str:
        structlog.contextvars.bind_contextvars(order_id=order_id)
        await asyncio.sleep(0)
        return str(line_of()["order_id"])

    assert await asyncio.gather(one("A"), one("B")) == ["A", "B"]


@pytest.mark.parametrize("value", [CARD, str(CARD), f"card {CARD}!", "4111-1111-1111-1111", "4111 1111 1111 1111"])
def test_card_numbers_are_masked_but_for_six_and_four(value: Any) -> None:
    assert "411111***1111" in str(line_of(detail=value)["detail"])


@pytest.mark.parametrize("value", [CARD + 1, f"{CARD}0000", f"A{CARD}", 12345, "01JABCDEFG4111111111111111"])
def test_other_numbers_stay_readable(value: Any) -> None:
    assert line_of(detail=value)["detail"] == value


def test_a_value_can_not_forge_a_line() -> None:
    lines = lines_of(detail='x\r\n{"event":"forged"}', **{"na\nme": 1})
    assert len(lines) == 1
    assert json.loads(lines[0])["detail"] == 'x\r\n{"event":"forged"}'


class Holder:
    def __repr__(self) -> str:
        return "canary"


def test_objects_are_named_not_shown() -> None:
    assert line_of(holder=Holder(), raw=b"canary")["holder"] == "<Holder>"
    assert "canary" not in "".join(lines_of(holder=Holder(), raw=b"canary"))


def test_no_value_can_make_logging_fail() -> None:
    deep: list[Any] = []
    for _ in range(1_000):
        deep = [deep]
    line = line_of(deep=deep, big=10**30, negative=-(10**30), lone="\ud800", nan=float("nan"), long="x" * 100_000)
    assert line["lone"] == "?"
    assert len(line["long"]) == logs.TEXT_MAX
