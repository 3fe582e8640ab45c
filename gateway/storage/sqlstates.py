"""What an error of a commit means. The default is that nobody knows.

Only a short list says "certainly not written" (PostgreSQL, Appendix A: error codes).
"""

from enum import StrEnum

import asyncpg


class NotConnected(Exception):
    """There is no connection, so nothing was sent."""


class Meaning(StrEnum):
    """What became of the statement, and what to do."""

    ROW_REFUSED = "row_refused"  # not written: one row is at fault; bisect
    ROW_HELD = "row_held"  # not written: a row is locked by somebody else; the others can go on without it
    TRY_AGAIN = "try_again"  # not written: two transactions met; again at once
    NOT_NOW = "not_now"  # not written: the database can't write at present
    UNKNOWN = "unknown"  # may be written: the same batch again, on a new connection, until there is a verdict


_BY_STATE = {
    "40001": Meaning.TRY_AGAIN,  # serialization failure
    "40P01": Meaning.TRY_AGAIN,  # deadlock detected
    "55P03": Meaning.ROW_HELD,  # lock_timeout
    "25006": Meaning.NOT_NOW,  # read only
    "53100": Meaning.NOT_NOW,  # disk full, as an ERROR
    "53200": Meaning.NOT_NOW,  # out of memory, as an ERROR
    "53300": Meaning.NOT_NOW,  # too many connections, before anything was sent
    "57P03": Meaning.NOT_NOW,  # can't connect now: starting up or recovering
}
_BY_CLASS = {
    "21": Meaning.ROW_REFUSED,  # cardinality violation: two rows of the batch want the same key
    "22": Meaning.ROW_REFUSED,  # data exception
    "23": Meaning.ROW_REFUSED,  # constraint violation
    "42": Meaning.NOT_NOW,  # a right, a table or a column is missing: an operator's mistake
    "54": Meaning.ROW_REFUSED,  # program limit: a value too large for what it is stored in
}


def meaning(error: BaseException) -> Meaning:
    """What an error raised while a batch was being sent says about the batch."""
    if isinstance(error, NotConnected):
        return Meaning.NOT_NOW
    if isinstance(error, asyncpg.exceptions.DataError):  # raised by the client's encoder too, before sending
        return Meaning.ROW_REFUSED
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if state[:2] == "XX" and error.severity_en == "ERROR":  # a damaged page: only what touches it is refused
            return Meaning.ROW_REFUSED
        return _BY_STATE.get(state) or _BY_CLASS.get(state[:2]) or Meaning.UNKNOWN
    return Meaning.UNKNOWN
