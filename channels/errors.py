"""The channels' errors.

ChannelError
├── NoAnswer               thrown into a flow: the request got no usable answer
├── NotificationRejected   a notification is not believed
├── StatementUnreadable    a statement does not have the platform's shape; says where
└── KeyMaterialError       a key or certificate can't be used; says which and why
"""

from channels.contract import RejectReason


class ChannelError(Exception):
    """Something about a channel went wrong."""


class NoAnswer(ChannelError):
    """The channel did not answer. `sent` is false only when the request certainly never left (connect refused)."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class NotificationRejected(ChannelError):
    """A notification is not believed; `serial` is the key it named, if any, so that keys can be refreshed once."""

    def __init__(self, reason: RejectReason, detail: str = "", serial: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.serial = serial


class StatementUnreadable(ChannelError):
    """A statement does not have the shape that the platform documents; the message names the line or column."""


class KeyMaterialError(ChannelError):
    """A key or certificate can't be used; the message names the file or field, the reason and, if expired, the date."""
