"""When a webhook is tried again: pure rules."""

import pytest

from gateway.webhooks.schedule import Again, Dead, Delivered, retry_after_s_of, verdict_of

SCHEDULE_S = [0, 15, 15, 30]


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_only_2xx_is_delivered(status: int) -> None:
    assert verdict_of(status, 1, SCHEDULE_S, jitter=1.0) == Delivered()


@pytest.mark.parametrize("status", [None, 100, 199, 300, 302, 304, 400, 404, 429, 500, 503])
def test_anything_else_is_tried_again(status: int | None) -> None:
    assert verdict_of(status, 1, SCHEDULE_S, jitter=1.0) == Again(15)


def test_each_delay_of_the_schedule_is_used_once_and_then_the_webhook_is_dead() -> None:
    verdicts = [verdict_of(500, tries, SCHEDULE_S, jitter=1.0) for tries in range(1, 5)]
    assert verdicts == [Again(15), Again(15), Again(30), Dead("all 4 tries failed")]


def test_a_2xx_at_the_last_try_is_delivered() -> None:
    assert verdict_of(200, 4, SCHEDULE_S, jitter=1.0) == Delivered()


def test_gone_is_final_at_once() -> None:
    assert verdict_of(410, 1, SCHEDULE_S, jitter=1.0) == Dead("the endpoint answered 410 Gone")


def test_jitter_stretches_the_delay() -> None:
    assert verdict_of(500, 3, SCHEDULE_S, jitter=0.8) == Again(24.0)


@pytest.mark.parametrize(("asked_s", "delay_s"), [(5, 15), (60, 60), (3_600, 3_600), (10**9, 3_600)])
def test_retry_after_lengthens_the_delay_by_at_most_an_hour(asked_s: float, delay_s: float) -> None:
    assert verdict_of(429, 1, SCHEDULE_S, jitter=1.0, retry_after_s=asked_s) == Again(delay_s)


def test_retry_after_does_not_add_tries() -> None:
    assert isinstance(verdict_of(503, 4, SCHEDULE_S, jitter=1.0, retry_after_s=60), Dead)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("9" * 400, 999_999_999.0),
        ("", None),
        (None, None),
        ("soon", None),
        ("-5", None),
        ("１２", None),
        ("Thu, 99 Jan 1970 00:02:00 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_date_or_not_at_all(header: str | None, seconds: float | None) -> None:
    assert retry_after_s_of(header, now_s=100.0) == seconds
