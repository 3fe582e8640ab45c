"""`./run doctor` says all that is wrong with an installation, or soon will be, and starts nothing."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.doctor import Finding, Verdict, as_text, diagnose, is_sound
from tests.unit.key_folder import ALIPAY, ALIPAY_CERTIFICATES, ALL, UNIONPAY, WECHATPAY, date_in, dated, fill

CHECKOUT = Path(__file__).resolve().parents[2]
OK, WARN, FAIL = Verdict.OK, Verdict.WARN, Verdict.FAIL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path)


@pytest.fixture
def listener() -> Iterator[str]:
    """An address at which somebody listens, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def configured(folder: Path, toml: str, base: str = "http://127.0.0.1:9") -> Path:
    """The configuration file, its channels at an address of this machine."""
    for section, more in (("wechatpay", ""), ("alipay", ""), ("unionpay", f'file_url = "{base}"\n')):
        toml = toml.replace(f"[channels.{section}]\n", f'[channels.{section}]\nbase_url = "{base}"\n{more}')
    path = folder / "holdfast.toml"
    path.write_text(toml)
    return path


async def found(path: Path, part: str, **environ: str) -> list[Finding]:
    return [each for each in await diagnose(path, environ) if each.part == part]


def run_doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    doctor = [sys.executable, "-m", "gateway", "doctor", *arguments]
    return subprocess.run(doctor, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)


# --- keys -----------------------------------------------------------------------------------------------------------


async def test_every_key_file_is_named_with_what_it_is_and_when_it_is_valid(folder: Path, listener: str) -> None:
    findings = await found(configured(folder, ALL, f"http://{listener}"), "channels.unionpay")
    valid = f"valid from {date_in(-30)} until"
    assert [(each.verdict, each.subject, each.detail) for each in findings[:3]] == [
        (OK, str(folder / "merchant.pfx"), f"the merchant's certificate, {valid} {date_in(400)}"),
        (OK, str(folder / "root.cer"), f"a root certificate of UnionPay, {valid} {date_in(4000)}"),
        (OK, str(folder / "middle.cer"), f"a middle certificate of UnionPay, {valid} {date_in(4000)}"),
    ]
    assert all(each.verdict is OK for each in findings)


async def test_a_certificate_is_warned_of_from_thirty_days_before_its_end(folder: Path) -> None:
    for days, verdict, ending in ((30.9, OK, ""), (29.9, WARN, ": 29 days left"), (0.5, WARN, ": 0 days left")):
        (folder / "platform.cer").write_bytes(dated("platform", days))
        (finding,) = [
            each
            for each in await found(configured(folder, WECHATPAY), "channels.wechatpay")
            if each.subject.endswith("platform.cer")
        ]
        assert (finding.verdict, finding.detail.partition(date_in(days))[2]) == (verdict, ending)


async def test_all_broken_files_of_a_channel_are_listed_and_not_only_the_first(folder: Path) -> None:
    (folder / "merchant.key").write_bytes(b"-----BEGIN PRIVATE KEY-----\nrubbish")
    (folder / "merchant.cer").write_bytes(dated("merchant", -5))
    (folder / "two.cer").write_bytes(dated("alipay", 5) + b"-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----")
    findings = await found(configured(folder, ALIPAY_CERTIFICATES), "channels.alipay")
    assert {(each.verdict, Path(each.subject).name, each.detail.split(", valid")[0]) for each in findings[:-1]} == {
        (FAIL, "merchant.key", "not an unencrypted private key in PEM form"),
        (FAIL, "merchant.cer", "a certificate"),
        (WARN, "two.cer", "a certificate"),
        (FAIL, "two.cer (2)", "not a certificate in PEM form"),
        (OK, "root.cer", "a certificate"),
    }
    assert f"until {date_in(-5)}: expired" in str(findings)


async def test_what_is_wrong_with_files_together_is_found_too(folder: Path) -> None:
    (folder / "merchant.cer").write_bytes(dated("somebody else", 400))
    findings = await found(configured(folder, ALIPAY_CERTIFICATES), "channels.alipay")
    broken = [each for each in findings if each.verdict is FAIL]
    assert [(each.subject, each.detail) for each in broken] == [
        (str(folder / "merchant.cer"), "the private key does not belong to the certificate")
    ]


async def test_one_channels_trouble_does_not_hide_anothers(folder: Path) -> None:
    (folder / "alipay.pub").write_bytes(b"rubbish!")
    (folder / "merchant.pfx").write_bytes(b"rubbish")
    findings = await diagnose(configured(folder, ALL), {})
    assert [each.part for each in findings if each.verdict is FAIL] == ["channels.alipay", "channels.unionpay"]


async def test_a_secret_that_everybody_can_read_is_warned_of(folder: Path) -> None:
    (folder / "merchant.key").chmod(0o644)
    findings = await found(configured(folder, ALIPAY), "channels.alipay")
    (warned,) = [each for each in findings if "everybody" in each.detail]
    assert (warned.verdict, warned.subject) == (WARN, str(folder / "merchant.key"))


# --- the configuration and the process ------------------------------------------------------------------------------


async def test_each_mistake_of_the_configuration_is_a_failure(folder: Path) -> None:
    findings = await found(configured(folder, "colour = 1\n[server]\nport = 'x'\n"), "configuration")
    assert [(each.verdict, each.subject) for each in findings] == [(FAIL, "colour"), (FAIL, "server.port")]
    assert not is_sound(findings)


async def test_without_a_channel_nobody_can_pay_which_is_a_warning() -> None:
    findings = await diagnose(None, {"HOLDFAST_SERVER__PORT": "0"})
    assert is_sound(findings)
    assert [each.subject for each in findings if each.part == "channels" and each.verdict is WARN] == ["none installed"]


async def test_nothing_is_started_or_written(tmp_path: Path) -> None:
    await diagnose(configured(tmp_path, "[server]\nport = 0\n"), {})
    assert [path.name for path in tmp_path.iterdir()] == ["holdfast.toml"]


async def test_a_port_in_use_is_warned_of_and_one_we_may_not_have_is_a_failure(tmp_path: Path, listener: str) -> None:
    port = listener.rpartition(":")[2]
    taken, _ = await found(configured(tmp_path, f"[server]\nport = {port}\n"), "server")
    assert (taken.verdict, taken.subject) == (WARN, listener)
    elsewhere, _ = await found(configured(tmp_path, '[server]\nhost = "192.0.2.1"\nport = 0\n'), "server")
    assert elsewhere.verdict is FAIL


PROD = {
    "HOLDFAST_ENV": "prod",
    "HOLDFAST_DATABASE__URL": "postgresql://holdfast:hunter2@127.0.0.1:9/holdfast",
    "HOLDFAST_REDIS__URL": "redis://:hunter2@127.0.0.1:9",
    "HOLDFAST_SECURITY__MASTER_KEY": "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=",
    "HOLDFAST_SERVER__PORT": "0",
}


@pytest.mark.parametrize(
    ("url", "verdict"),
    [
        ("https://pay.example.com", OK),
        ("https://pay.example.com:8443", OK),
        ("https://8.8.8.8", OK),
        *(
            (f"https://{host}", WARN)
            for host in ("localhost", "gateway", "10.0.0.7", "192.168.1.1", "[::1]", "a.local")
        ),
    ],
)
async def test_in_production_an_address_that_no_channel_can_reach_is_warned_of(
    tmp_path: Path, url: str, verdict: Verdict
) -> None:
    findings = await found(configured(tmp_path, ""), "server", HOLDFAST_SERVER__PUBLIC_URL=url, **PROD)
    assert [(each.verdict, each.subject) for each in findings[1:]] == [(verdict, url)]


async def test_a_password_is_never_shown(tmp_path: Path) -> None:
    environ = {**PROD, "HOLDFAST_SERVER__PUBLIC_URL": "https://pay.example.com"}
    text = as_text(await diagnose(configured(tmp_path, ""), environ))
    assert "hunter2" not in text
    assert "postgresql://holdfast:***@127.0.0.1:9/holdfast" in text
    assert "redis://:***@127.0.0.1:9" in text


# --- over the network -----------------------------------------------------------------------------------------------


async def test_a_channel_that_can_not_be_reached_is_a_warning(folder: Path, listener: str) -> None:
    up = await found(configured(folder, ALIPAY, f"http://{listener}"), "channels.alipay")
    assert (up[-1].verdict, up[-1].subject) == (OK, f"http://{listener}")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        down = await found(configured(folder, UNIONPAY, address), "channels.unionpay")
    assert (down[-1].verdict, down[-1].subject) == (WARN, address)
    assert "not reached" in down[-1].detail
    assert is_sound(down)


async def test_redis_away_is_degraded_and_not_broken(tmp_path: Path, redis_url: str) -> None:
    for url, verdict in ((redis_url, OK), ("redis://127.0.0.1:9", WARN), ("off", OK), ("embedded", OK)):
        (finding,) = await found(configured(tmp_path, ""), "redis", HOLDFAST_REDIS__URL=url)
        assert finding.verdict is verdict, finding


async def test_a_migrated_database_is_fine_and_its_clock_is_compared(tmp_path: Path, database_url: str) -> None:
    findings = await postgres(tmp_path, database_url)
    assert {each.verdict for each in findings} == {OK}, findings
    text = str(findings)
    assert all(words in text for words in ("connected to PostgreSQL", "schema: complete", "role holdfast_gateway"))
    assert "s from ours" in text


async def test_a_database_that_may_forget_is_a_failure_for_each_reason(tmp_path: Path, database_url: str) -> None:
    findings = await postgres(tmp_path, database_url, allow_unsafe="false")
    reasons = [each.detail for each in findings if each.verdict is FAIL]
    assert len(reasons) > 1
    assert any("fsync is off" in reason for reason in reasons)


async def test_migrations_to_come_are_a_warning_and_are_not_applied(tmp_path: Path, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("DROP TABLE schema_migrations")
    for _ in range(2):
        findings = await postgres(tmp_path, database_url)
        (warned,) = [each for each in findings if each.verdict is not OK]
        assert (warned.verdict, warned.detail.split(",")[0]) == (WARN, "schema: `serve` will apply 0001_spine")
    await connection.close()


async def test_a_database_of_a_newer_version_is_a_failure(tmp_path: Path, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "INSERT INTO schema_migrations (version, name, sha256)"
        " SELECT max(version) + 1, 'later', '' FROM schema_migrations"
    )
    await connection.close()
    findings = await postgres(tmp_path, database_url)
    assert [each.verdict for each in findings if "does not know: run a newer version" in each.detail] == [FAIL]


async def test_a_role_that_is_not_there_is_a_failure(tmp_path: Path, database_url: str) -> None:
    findings = await postgres(tmp_path, database_url, role="nobody_made_it")
    assert [each.verdict for each in findings if "nobody_made_it" in each.detail] == [FAIL]


async def test_a_database_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    (finding,) = await postgres(tmp_path, "postgresql://127.0.0.1:9/x")
    assert finding.verdict is FAIL
    assert finding.detail.startswith("not connected")


async def postgres(folder: Path, url: str, **settings: str) -> list[Finding]:
    environ = {f"HOLDFAST_DATABASE__{name.upper()}": value for name, value in settings.items()}
    environ = {"HOLDFAST_DATABASE__ALLOW_UNSAFE": "true", "HOLDFAST_DATABASE__URL": url, **environ}
    return await found(configured(folder, ""), "postgres", **environ)


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_aligned_lines_and_exits_0_with_warnings(folder: Path) -> None:
    (folder / "platform.cer").write_bytes(dated("platform", 3))
    ended = run_doctor("--config", str(configured(folder, "[server]\nport = 0\n" + WECHATPAY)))
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert {line[:6] for line in lines} == {"ok    ", "warn  "}
    columns = {line.index(line.split()[1]) for line in lines}
    assert columns == {6}
    (line,) = [line for line in lines if str(folder / "platform.cer") in line]
    assert line.startswith("warn")
    assert date_in(3) in line


def test_the_command_exits_1_when_something_is_broken_and_speaks_json(folder: Path) -> None:
    (folder / "v3.key").write_bytes(b"short")
    ended = run_doctor("--json", "--config", str(configured(folder, WECHATPAY)))
    assert ended.returncode == 1
    told: dict[str, Any] = json.loads(ended.stdout)
    assert told["sound"] is False
    assert {
        "verdict": "fail",
        "part": "configuration",
        "subject": "channels.wechatpay.api_v3_key",
        "detail": "Expected 32 bytes (in api_v3_key or the file api_v3_key_file)",
    } in told["findings"]
