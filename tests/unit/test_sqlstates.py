"""What an error of a commit means: certainly not written only where the list says so."""

import asyncio

import asyncpg
import pytest

from gateway.storage.sqlstates import Meaning, NotConnected, meaning


def error(sqlstate: str) -> asyncpg.PostgresError:
    return asyncpg.PostgresError.new({"C": sqlstate, "M": "m", "S": "ERROR"})


@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [
        ("23505", Meaning.ROW_REFUSED),
        ("23514", Meaning.ROW_REFUSED),
        ("21000", Meaning.ROW_REFUSED),
        ("22021", Meaning.ROW_REFUSED),
        ("40001", Meaning.TRY_AGAIN),
        ("40P01", Meaning.TRY_AGAIN),
        ("25006", Meaning.NOT_NOW),
        ("53100", Meaning.NOT_NOW),
        ("53300", Meaning.NOT_NOW),
        ("57P03", Meaning.NOT_NOW),
        ("08006", Meaning.UNKNOWN),
        ("08003", Meaning.UNKNOWN),
        ("57P01", Meaning.UNKNOWN),
        ("57P02", Meaning.UNKNOWN),
        ("99999", Meaning.UNKNOWN),
    ],
)
def test_each_listed_state_has_its_meaning_and_any_other_is_unknown(sqlstate: str, expected: Meaning) -> None:
    assert meaning(error(sqlstate)) is expected


@pytest.mark.parametrize(
    "silence", [TimeoutError(), OSError(), ConnectionResetError(), asyncio.CancelledError(), RuntimeError()]
)
def test_silence_is_never_a_no(silence: BaseException) -> None:
    assert meaning(silence) is Meaning.UNKNOWN


def test_without_a_connection_nothing_was_sent() -> None:
    assert meaning(NotConnected("refused")) is Meaning.NOT_NOW
