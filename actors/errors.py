"""The core's errors.

ActorError
├── OrderNotFound       nobody knows that order
├── Overloaded          a bound was reached; nothing was done, try again later
├── Unavailable         the journal certainly did not take the write; try again later
├── WriteRejected       the journal refused this one write for what it holds
└── Stopped             the process is stopping; nothing was done
"""


class ActorError(Exception):
    """Something about an actor went wrong."""


class OrderNotFound(ActorError):
    """Nobody knows that order."""


class Overloaded(ActorError):
    """A bound was reached; nothing was done, try again later."""


class Unavailable(ActorError):
    """The journal certainly did not take the write; try again later."""


class WriteRejected(ActorError):
    """The journal refused this one write for what it holds."""


class Stopped(ActorError):
    """The process is stopping; nothing was done."""
