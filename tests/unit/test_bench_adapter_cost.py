"""What a channel costs beside RSA: the two are told apart, and every channel is driven as it really is."""

import subprocess
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from bench import adapter_cost
from bench.accounts import Accounts, make_accounts, possible
from bench.adapter_cost import Cost, medians, notification, openssl_speed, prepay
from channels import signing
from channels.simulator.key_files import make_key


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Accounts, Path]:
    folder = tmp_path_factory.mktemp("keys")
    return make_accounts(folder, ["bench"], possible())["bench"], folder


def busy(us: float) -> None:
    until_ns = time.thread_time_ns() + us * 1e3
    while time.thread_time_ns() < until_ns:
        pass


def test_rsa_and_the_rest_are_told_apart() -> None:
    key = make_key()

    def operation() -> None:
        signing.sign(key, b"x")
        busy(1_000)

    cost = medians({"": operation}, 5)[""]
    assert 900 < cost.own_us < 1_300
    assert 100 < cost.rsa_us < 5_000
    assert cost.whole_us == pytest.approx(cost.own_us + cost.rsa_us)


def test_what_has_no_rsa_is_all_its_own_and_what_is_rsa_alone_nearly_nothing() -> None:
    public = make_key().public_key()
    costs = medians({"work": lambda: busy(500), "rsa": lambda: signing.verify(public, b"x", signing_of_nobody)}, 5)
    assert costs["work"].own == pytest.approx(1, abs=0.02)
    assert costs["rsa"].own < 0.5


signing_of_nobody = "A" * 342 + "=="


def test_the_clock_is_taken_away_again() -> None:
    before = signing.sign, signing.verify
    medians({"": lambda: None}, 1)
    assert (signing.sign, signing.verify) == before


def test_every_channel_has_a_prepay_with_a_signature_and_both_have_a_verification(
    accounts: tuple[Accounts, Path],
) -> None:
    ours, folder = accounts
    assert set(ours.channels) == {"wechatpay", "alipay", "unionpay"}
    for channel in ours.channels.values():
        calls: list[str] = []
        sign, verify = signing.sign, signing.verify
        operations = prepay(channel, folder), notification(channel, folder)
        with (
            patch.object(signing, "sign", lambda *a, sign=sign, calls=calls: calls.append("sign") or sign(*a)),
            patch.object(
                signing, "verify", lambda *a, verify=verify, calls=calls: calls.append("verify") or verify(*a)
            ),
        ):
            for operation in operations:
                operation()
        assert calls == ["sign", "verify", "verify"], channel.name


def test_a_share_above_the_limit_is_called_so() -> None:
    from bench.scenarios.channels import _cost_row

    assert "ABOVE" not in _cost_row("x", Cost(100.0, 41.0), 0.6).remark
    assert "ABOVE" in _cost_row("x", Cost(100.0, 39.0), 0.6).remark


def test_without_openssl_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: object, **__: object) -> None:
        raise FileNotFoundError("openssl")

    monkeypatch.setattr(adapter_cost.subprocess, "run", nowhere)
    assert openssl_speed(1) == "there is no openssl here"


@pytest.mark.parametrize("said", ["", "rsa 2048 bits", "rsa 2048 bits x y"])
def test_an_openssl_that_says_something_else_is_no_figure(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr(
        adapter_cost.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=said, stderr="")
    )
    assert "nothing we understand" in str(openssl_speed(1))


def test_the_words_of_openssl_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "                  sign    verify    sign/s verify/s\nrsa 2048 bits 0.000625s 0.000018s   1600.0  55295.1\n"
    monkeypatch.setattr(
        adapter_cost.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=said, stderr="")
    )
    assert openssl_speed(1) == (1600.0, 55295.1)
