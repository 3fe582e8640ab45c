"""Webhook addresses: what may stand as one, and what fails together."""

from yarl import URL

URL_LENGTH_MAX = 2_048


def fault_of(url: str) -> str | None:
    """Why this is not a usable webhook address, or None if it is."""
    if len(url) > URL_LENGTH_MAX:
        return f"must be at most {URL_LENGTH_MAX} characters"
    if not url.isascii() or any(not "!" <= sign <= "~" for sign in url):
        return "must be printable ASCII without spaces (encode the rest)"
    try:
        parsed = URL(url)
        parsed.port  # noqa: B018 - reading it is what finds a port out of range
    except ValueError as error:
        return f"is not a URL: {error}"
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        return "must begin with https:// or http:// and name a host"
    if parsed.user is not None or parsed.password is not None or parsed.fragment:
        return "must not hold a user, a password or a fragment"
    return None


def host_of(url: str) -> str:
    """Host and port as written: what is down or slow together. The claim of the outbox says the same in SQL."""
    parts = url.split("/", 3)
    return parts[2] if len(parts) > 2 else ""
