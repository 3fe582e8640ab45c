"""The token bucket and the breaker, told the time by the test."""

import pytest

from gateway.pacing import Admission, Breaker, TokenBucket

FREE, PROBE, REFUSED = Admission.FREE, Admission.PROBE, Admission.REFUSED


class Now:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


# --- the bucket -----------------------------------------------------------------------------------------------------


def test_a_burst_is_free_and_then_each_waits_its_turn() -> None:
    now = Now()
    bucket = TokenBucket(10, 3, now)
    assert [bucket.take() for _ in range(4)] == [0, 0, 0, None]
    assert [bucket.take(1) for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])


def test_who_would_wait_too_long_takes_nothing_from_the_others() -> None:
    now = Now()
    bucket = TokenBucket(10, 1, now)
    assert [bucket.take(0.25) for _ in range(5)] == [0, pytest.approx(0.1), pytest.approx(0.2), None, None]
    now.s += 0.1
    assert bucket.take(0.25) == pytest.approx(0.2)


def test_it_fills_no_higher_than_its_burst() -> None:
    now = Now()
    bucket = TokenBucket(10, 2, now)
    bucket.take()
    now.s += 3600
    assert [bucket.take() for _ in range(3)] == [0, 0, None]


def test_in_the_long_run_it_lets_its_rate_through() -> None:
    now = Now()
    bucket = TokenBucket(50, 10, now)
    taken = 0
    for _ in range(1000):
        taken += sum(bucket.take() is not None for _ in range(5))
        now.s += 0.01
    assert taken == pytest.approx(50 * 10 + 10, abs=1)


# --- the breaker ----------------------------------------------------------------------------------------------------


def heard(breaker: Breaker, *answers: bool | None) -> list[Admission]:
    """Conversations one after the other; how each was admitted."""
    admissions = []
    for answer in answers:
        admissions.append(breaker.admit())
        if admissions[-1] is not REFUSED:
            breaker.settle(admissions[-1], answer)
    return admissions


def test_silences_in_a_row_open_it_and_one_answer_between_them_does_not() -> None:
    moved: list[bool] = []
    breaker = Breaker(3, 10, moved.append, Now())
    assert heard(breaker, False, False, True, False, False) == [FREE] * 5
    assert (breaker.refuses, moved) == (False, [])
    assert heard(breaker, False, False, False) == [FREE, REFUSED, REFUSED]
    assert (breaker.refuses, moved) == (True, [True])


def test_what_asked_nothing_counts_as_neither() -> None:
    breaker = Breaker(2, 10, now_s=Now())
    assert heard(breaker, False, None, None, False, None) == [FREE, FREE, FREE, FREE, REFUSED]


def test_after_the_pause_one_finds_out_for_all() -> None:
    now, moved = Now(), []
    breaker = Breaker(1, 10, moved.append, now)
    heard(breaker, False)
    now.s += 9.9
    assert breaker.admit() is REFUSED
    now.s += 0.1
    assert [breaker.admit() for _ in range(3)] == [PROBE, REFUSED, REFUSED]
    breaker.settle(PROBE, False)
    assert breaker.admit() is REFUSED, "the pause begins anew"
    now.s += 10
    assert heard(breaker, True, False) == [PROBE, FREE]
    assert moved == [True, False, True]


def test_a_probe_that_asked_nothing_lets_the_next_one_find_out() -> None:
    now = Now()
    breaker = Breaker(1, 10, now_s=now)
    heard(breaker, False)
    now.s += 10
    assert heard(breaker, None, None, True, True) == [PROBE, PROBE, PROBE, FREE]


def test_an_answer_to_an_older_question_closes_it_and_a_silence_prolongs_nothing() -> None:
    now = Now()
    breaker = Breaker(1, 10, now_s=now)
    older = [breaker.admit() for _ in range(3)]
    breaker.settle(older[0], False)
    now.s += 9
    breaker.settle(older[1], False)
    now.s += 1
    assert not breaker.refuses
    breaker.settle(breaker.admit(), False)
    breaker.settle(older[2], True)
    assert breaker.admit() is FREE
