"""Log lines: JSON in production and in pipes, coloured on a terminal; and nothing secret in either.

Every line, also those of the libraries through `logging`, passes one redactor that lets only plain values through
(numbers, strings, lists, dicts of them; anything else is named by its type), blanks what stands under a secret's name,
and masks what looks like a secret or a card number wherever it stands. JSON escapes CR and LF, so a value can not forge
a line.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

MASK = "***"
DEPTH_MAX = 6
TEXT_MAX = 8_192

# Names whose value is never shown: whole, or as the last word (api_key, webhook_secret, private_key_pem, ...).
_SECRET_NAME = re.compile(
    r"(^|[_.\-\s])(key|keys|secret|secrets|password|passwd|token|authorization|cookie|credential|signature|pem|api_?v3_?key"
    r"|api_?key|private_?key|master_?key|body|ciphertext|plaintext)(_?(pem|file_content|hex|base64|bytes))?$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)"
    r"|\b(hk_|whsec_)[A-Za-z0-9+/=_-]{6,}"
    r"|\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{6,}"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)",  # user:password of an address
    re.IGNORECASE | re.DOTALL,
)
_CARD_SHAPED = re.compile(r"(?<![0-9A-Za-z])\d(?:[ -]?\d){12,18}(?![0-9A-Za-z])")


def configure(*, production: bool, stream: TextIO | None = None) -> None:
    """Send all log lines of this process to `stream` (default: stderr)."""
    stream = stream or sys.stderr
    pretty = not production and stream.isatty()
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
        _pretty() if pretty else structlog.processors.JSONRenderer(serializer=orjson.dumps),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(stream)
        if pretty
        else structlog.BytesLoggerFactory(_binary(stream)),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Bridge()], level=logging.WARNING, force=True)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The structlog processor that lets nothing secret through. Must stand directly before the renderer."""
    return {str(name): _shown(str(name), value, 0) for name, value in event.items()}


def _shown(name: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | float):
        return value
    if _SECRET_NAME.search(name):
        return MASK
    if isinstance(value, int):
        shown = _mask_card(str(value))
        return value if shown == str(value) and _in_orjson_range(value) else shown
    if isinstance(value, str):
        return _mask_text(str(value))
    return _shown_nested(name, value, depth)


def _shown_nested(name: str, value: Any, depth: int) -> Any:
    if depth >= DEPTH_MAX:
        return "..."
    if isinstance(value, Mapping):
        return {str(key): _shown(str(key), inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown(name, inner, depth + 1) for inner in value]
    if isinstance(value, BaseException):
        return _mask_text(f"{type(value).__name__}: {value}")
    # A repr may show whatever the object holds, so an unknown type is only named.
    return f"<{type(value).__name__}>"


def _mask_text(text: str) -> str:
    text = text[:TEXT_MAX].encode(errors="replace").decode()  # a lone surrogate would stop the JSON encoder
    return _CARD_SHAPED.sub(lambda found: _mask_card(found[0]), _SECRET_TEXT.sub(MASK, text))


def _mask_card(text: str) -> str:
    digits = re.sub(r"[ -]", "", text)
    return _mask_digits(digits) if _is_card(digits) else text


def _mask_digits(digits: str) -> str:
    """First six and last four digits, as the card industry allows to show."""
    return f"{digits[:6]}{MASK}{digits[-4:]}"


def _is_card(digits: str) -> bool:
    """13-19 digits with a right Luhn check digit."""
    if not 13 <= len(digits) <= 19:
        return False
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) * (1 + place % 2)
        total += number - 9 if number > 9 else number
    return total % 10 == 0


def _in_orjson_range(value: int) -> bool:
    return -(2**63) <= value < 2**64


def _pretty() -> Processor:
    return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def _binary(stream: TextIO) -> BinaryIO:
    return stream.buffer


class _Bridge(logging.Handler):
    """Hands the libraries' `logging` records to structlog, so that they are redacted and shaped as ours."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None)
