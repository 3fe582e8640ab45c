"""Secrets at rest: AES-256-GCM under the master key. A dump of the database holds nothing one can use.

A sealed value is: version byte 0x01, 12 bytes of random nonce, ciphertext with its 16-byte tag. The context (what this
is, and whose) is authenticated with it, so that a sealed value can not be moved to another row and still open.
"""

import base64
import binascii
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
VERSION = b"\x01"


class MasterKeyError(Exception):
    """The master key is missing or malformed; the message names the setting or file."""


class SealError(Exception):
    """A sealed value does not open: sealed with another master key, for another context, or changed since."""


class Sealer:
    """Seals and opens short secrets under one master key of 32 bytes."""

    def __init__(self, master_key: bytes) -> None:
        if len(master_key) != KEY_BYTES:
            raise MasterKeyError(f"the master key must be {KEY_BYTES} bytes, not {len(master_key)}")
        self._aead = AESGCM(master_key)

    def seal(self, plain: bytes, context: str) -> bytes:
        """Encrypt `plain`; it opens only under the same `context`."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return VERSION + nonce + self._aead.encrypt(nonce, plain, VERSION + context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """Decrypt what `seal` made.

        Raises:
            SealError: it does not open; the message says what to look at.
        """
        if sealed[:1] != VERSION or len(sealed) < 1 + NONCE_BYTES + TAG_BYTES:
            raise SealError(f"{context}: not a sealed value of version {VERSION[0]}")
        nonce, ciphertext = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        try:
            return self._aead.decrypt(nonce, ciphertext, VERSION + context.encode())
        except InvalidTag:
            raise SealError(
                f"{context}: does not open with this master key (security.master_key); was it sealed with another one?"
            ) from None


def load_master_key(*, production: bool, master_key: str, master_key_file: str, root: Path) -> bytes:
    """Find the master key: the setting, the file, or, in development only, `<root>/master.key`, made when missing.

    Args:
        production: demand a key of the operator's own.
        master_key: `security.master_key`, base64 of 32 bytes, or empty.
        master_key_file: `security.master_key_file`, a file that holds the same, or empty.
        root: `embedded.root`, where the development key lives.

    Raises:
        MasterKeyError: no usable key; the message names the setting.
    """
    if master_key:
        return _decode(master_key, "security.master_key")
    if master_key_file:
        return _read(Path(master_key_file), "security.master_key_file")
    if production:
        raise MasterKeyError('security.master_key or security.master_key_file is required when env = "prod"')
    path = root / "master.key"
    if not path.exists():
        _make(path)
    return _read(path, "the development master key")


def _decode(text: str, name: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise MasterKeyError(f"{name}: not base64") from None
    if len(key) != KEY_BYTES:
        raise MasterKeyError(f"{name}: must be base64 of {KEY_BYTES} bytes, not of {len(key)}")
    return key


def _read(path: Path, name: str) -> bytes:
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise MasterKeyError(f"{name}: can't read {path}: {error}") from None
    return _decode(text, f"{name} ({path})")


def _make(path: Path) -> None:
    """Write a fresh key; it gets its name only when complete, so that a process beside us reads all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
        _sync_directory(path.parent)
    except FileExistsError:
        pass  # another process was faster: its key is the key
    finally:
        draft.unlink()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
