"""The ladders of channels and methods: what is said of them, what is inherited, and that orders follow them."""

from pathlib import Path

import msgspec
import pytest

from actors.deadlines import Schedule
from actors.events import Due, OutcomeUnknown, ReportedClosed, SubmitAccepted, Verb
from actors.lifecycle import transition
from actors.order import Order, OrderState
from channels import alipay_wire, unionpay_wire, wechatpay_wire
from channels.contract import CredentialType
from gateway.checks import schedule_of
from gateway.config.sections import AlipayMethods, BarcodeMethod, UnionPayMethods, WechatPayMethods
from tests.unit.orders import BORN_MS, CREDENTIAL, EXPIRES_MS, fresh, pay
from tests.unit.test_config import UNIONPAY_PEM, WECHATPAY, directory, mistakes, read

__all__ = ["directory"]

OWN = """
[checks]
timeout_s = 20
[channels.wechatpay.checks]
queries_s = [1, 2]
[channels.wechatpay.methods.h5.checks]
timeout_s = 7
slow_queries_s = [40]
"""


@pytest.mark.parametrize(
    ("methods", "known"),
    [
        (WechatPayMethods, wechatpay_wire.METHODS),
        (AlipayMethods, alipay_wire.METHODS),
        (UnionPayMethods, unionpay_wire.METHODS),
    ],
)
def test_every_method_of_a_channel_can_be_configured_and_no_other(methods: type, known: dict[str, object]) -> None:
    assert [field.name for field in msgspec.structs.fields(methods)] == list(known)
    for field in msgspec.structs.fields(methods):
        at_once = known[field.name].credential is CredentialType.NONE  # type: ignore[attr-defined]
        assert (field.type is BarcodeMethod) == at_once, "nobody is waited for where nothing is shown"


def test_a_method_inherits_from_its_channel_and_that_from_all(directory: Path) -> None:
    config = read(directory, WECHATPAY + OWN)
    schedule = schedule_of(config.checks, config.channels)
    assert (schedule.timeout_ms, schedule.queries_ms) == (20_000, (10_000, 20_000, 30_000))
    native, h5 = schedule.of("wechatpay", "native"), schedule.of("wechatpay", "h5")
    assert (native.timeout_ms, native.queries_ms, native.slow_queries_ms) == (
        20_000,
        (1000, 2000),
        schedule.slow_queries_ms,
    )
    assert (h5.timeout_ms, h5.queries_ms, h5.slow_queries_ms) == (7000, (1000, 2000), (40_000,))
    assert h5.closing_ms == schedule.closing_ms
    assert schedule.of("voucher", "counter") is schedule


def test_a_bar_code_waits_for_nobody(directory: Path) -> None:
    toml = UNIONPAY_PEM + "[channels.unionpay.checks]\ntimeout_s = 60\n"
    config = read(directory, toml)
    schedule = schedule_of(config.checks, config.channels)
    barcode = schedule.of("unionpay", "barcode")
    assert (barcode.timeout_ms, barcode.queries_ms) == (5000, (5000, 10_000, 15_000))
    assert schedule.of("unionpay", "qr").timeout_ms == 60_000
    config = read(directory, toml + "[channels.unionpay.methods.barcode.checks]\nqueries_s = [1]\n")
    barcode = schedule_of(config.checks, config.channels).of("unionpay", "barcode")
    assert (barcode.timeout_ms, barcode.queries_ms) == (5000, (1000,))
    config = read(directory, toml + "[channels.unionpay.methods.barcode.checks]\ntimeout_s = 40\n")
    assert schedule_of(config.checks, config.channels).of("unionpay", "barcode").timeout_ms == 40_000


def test_where_everything_is_asked_after_sooner_so_is_a_bar_code(directory: Path) -> None:
    config = read(directory, UNIONPAY_PEM + "[checks]\ntimeout_s = 2\nqueries_s = [1, 1]\n")
    barcode = schedule_of(config.checks, config.channels).of("unionpay", "barcode")
    assert (barcode.timeout_ms, barcode.queries_ms) == (2000, (1000, 1000))


def test_variables_reach_a_method(directory: Path) -> None:
    own = {"HOLDFAST_CHANNELS__WECHATPAY__METHODS__JSAPI__CHECKS__QUERIES_S": "[3, 4]"}
    own["HOLDFAST_CHANNELS__WECHATPAY__CHECKS__TIMEOUT_S"] = "8"
    config = read(directory, WECHATPAY, **own)
    jsapi = schedule_of(config.checks, config.channels).of("wechatpay", "jsapi")
    assert (jsapi.timeout_ms, jsapi.queries_ms) == (8000, (3000, 4000))


@pytest.mark.parametrize(
    ("section", "mistake"),
    [
        ("methods.barcode.checks]\ntimeout_s = 1", "channels.wechatpay.methods.barcode: no such setting"),
        ("methods.native.checks]\nclosing_s = [1]", "channels.wechatpay.methods.native.checks.closing_s: no such"),
        ("methods.native]\ntimeout_s = 1", "channels.wechatpay.methods.native.timeout_s: no such setting"),
        ("methods.native.checks]\ntimeout_s = 0", "channels.wechatpay.methods.native.checks.timeout_s: Expected"),
        ("checks]\nqueries_s = []", "channels.wechatpay.checks.queries_s: Expected `array` of length >= 1"),
    ],
)
def test_what_is_not_there_is_named(directory: Path, section: str, mistake: str) -> None:
    (found,) = mistakes(directory, f"{WECHATPAY}[channels.wechatpay.{section}\n")
    assert found.startswith(mistake)


# --- orders follow them ---------------------------------------------------------------------------------------------

SCHEDULE = Schedule(
    by_method={
        ("wechatpay", "native"): Schedule(timeout_ms=4000, queries_ms=(100, 200), slow_queries_ms=(900,)),
        ("unionpay", "barcode"): Schedule(timeout_ms=70, queries_ms=(7,)),
    }
)
BARCODE = {"channel": "unionpay", "method": "barcode", "account": "777"}


def told(order: Order, *events: object) -> Order:
    for event in events:
        order = transition(order, event, SCHEDULE).order  # type: ignore[arg-type]
    return order


def due(order: Order) -> Order:
    assert order.next_check_at_ms is not None
    return told(order, Due(order.next_check_at_ms))


def test_the_method_that_is_paid_with_decides_when_it_is_overdue() -> None:
    assert told(fresh(), pay(BORN_MS)).next_check_at_ms == BORN_MS + 4000
    assert told(fresh(), pay(BORN_MS, **BARCODE)).next_check_at_ms == BORN_MS + 70
    assert told(fresh(), pay(BORN_MS, method="h5")).next_check_at_ms == BORN_MS + 30_000


def test_the_live_attempts_ladder_is_climbed() -> None:
    order = told(fresh(), pay(BORN_MS), SubmitAccepted(BORN_MS, 1, CREDENTIAL))
    waits = []
    for _ in range(4):
        before, order = order, due(order)
        assert before.next_check_at_ms is not None
        assert order.next_check_at_ms is not None
        waits.append(order.next_check_at_ms - before.next_check_at_ms)
    assert waits == [100, 200, 900, 900]
    lost = told(fresh(), pay(BORN_MS, **BARCODE), OutcomeUnknown(BORN_MS + 1, 1, Verb.SUBMIT, "silence"))
    assert lost.next_check_at_ms == BORN_MS + 1 + 7


def test_another_method_does_not_hurry_the_one_that_makes_room_for_it() -> None:
    shown = told(fresh(), pay(BORN_MS), SubmitAccepted(BORN_MS, 1, CREDENTIAL))
    making_room = told(shown, pay(BORN_MS + 50, **BARCODE))
    assert making_room.next_check_at_ms == BORN_MS + 50 + 100
    closed = told(making_room, ReportedClosed(BORN_MS + 60, 1))
    assert told(closed, pay(BORN_MS + 61, **BARCODE)).next_check_at_ms == BORN_MS + 61 + 70


def test_beyond_its_method_an_order_ends_as_all_do() -> None:
    expired = told(fresh(), pay(BORN_MS), SubmitAccepted(BORN_MS, 1, CREDENTIAL), Due(EXPIRES_MS, 3))
    assert (expired.state, expired.next_check_at_ms) == (OrderState.CLOSING, EXPIRES_MS + SCHEDULE.closing_ms[0])
