"""Secrets at rest, and where the master key comes from."""

import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.sealing import MasterKeyError, Sealer, SealError, load_master_key

KEY = bytes(32)
TEXT = base64.b64encode(KEY).decode()


def test_what_was_sealed_opens_and_does_not_show() -> None:
    sealed = Sealer(KEY).seal(b"canary", "app shop")
    assert b"canary" not in sealed
    assert Sealer(KEY).open(sealed, "app shop") == b"canary"


def test_the_same_secret_never_seals_to_the_same_bytes() -> None:
    sealer = Sealer(KEY)
    assert len({sealer.seal(b"x", "c") for _ in range(100)}) == 100


def test_another_key_gets_a_clear_error() -> None:
    sealed = Sealer(KEY).seal(b"canary", "app shop")
    with pytest.raises(SealError, match=r"app shop: does not open with this master key .security\.master_key."):
        Sealer(b"\1" * 32).open(sealed, "app shop")


def test_a_sealed_value_does_not_open_in_another_place() -> None:
    sealed = Sealer(KEY).seal(b"canary", "app shop")
    with pytest.raises(SealError, match="app other"):
        Sealer(KEY).open(sealed, "app other")


def test_no_bit_of_a_sealed_value_can_be_changed() -> None:
    sealed = Sealer(KEY).seal(b"canary", "c")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(SealError):
            Sealer(KEY).open(bytes(changed), "c")


@pytest.mark.parametrize("rubbish", [b"", b"\1", b"\1" * 28, b"\2" * 60])
def test_rubbish_is_named_as_such(rubbish: bytes) -> None:
    with pytest.raises(SealError, match="not a sealed value of version 1"):
        Sealer(KEY).open(rubbish, "c")


def test_a_key_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(MasterKeyError, match="32 bytes, not 16"):
        Sealer(bytes(16))


def load(root: Path, *, production: bool = False, master_key: str = "", master_key_file: str = "") -> bytes:
    return load_master_key(production=production, master_key=master_key, master_key_file=master_key_file, root=root)


def test_production_demands_a_key(tmp_path: Path) -> None:
    with pytest.raises(MasterKeyError, match=r"security\.master_key or security\.master_key_file is required"):
        load(tmp_path, production=True)
    assert not list(tmp_path.iterdir())


def test_the_key_comes_from_the_setting_or_the_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(TEXT + "\n")
    assert load(tmp_path, production=True, master_key=TEXT) == KEY
    assert load(tmp_path, production=True, master_key_file=str(tmp_path / "key")) == KEY


@pytest.mark.parametrize(
    ("text", "problem"), [("!!", "not base64"), ("AAAA", "base64 of 32 bytes, not of 3"), ("钥", "not base64")]
)
def test_a_malformed_key_is_refused_by_name_without_showing_it(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(MasterKeyError, match=rf"^security\.master_key: .*{problem}") as raised:
        load(tmp_path, master_key=text)
    assert text not in str(raised.value)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("missing", "binary"):
        with pytest.raises(MasterKeyError, match=rf"security\.master_key_file: can't read .*{name}"):
            load(tmp_path, master_key_file=str(tmp_path / name))


def test_development_makes_a_private_key_once(tmp_path: Path) -> None:
    first = load(tmp_path / "var")
    assert load(tmp_path / "var") == first
    assert stat.S_IMODE((tmp_path / "var" / "master.key").stat().st_mode) == 0o600


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda _: load(tmp_path), range(64)))
    assert len(keys) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["master.key"]
