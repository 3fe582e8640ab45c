"""Cases over HTTP and at the command line: seen, and settled with who and why."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest

from gateway.app import Gateway
from gateway.metrics import Metrics
from gateway.storage.apps import NewApp
from gateway.storage.cases import CaseCounter
from tests.integration.gateway_parts import Api, add_app, until
from tests.integration.made_up_channels import Made, gateway_with, make_three, notify

QUICK: dict[str, dict[str, Any]] = {
    "checks": {"pay_wait_s": 0.5, "queries_s": [0.1], "closing_s": [0.1], "refund_s": [0.1], "not_found_final_s": 0.2},
    "sweep": {"every_s": 0.1, "grace_s": 0},
}
NOTE = {"by": "ann", "note": "spoke with the payer"}


@pytest.fixture
def made() -> Made:
    return make_three()


@pytest.fixture
async def app(database_url: str) -> NewApp:
    return await add_app(database_url, "shop")


@pytest.fixture
async def running(made: Made, database_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway_with(made, tmp_path, database_url, **QUICK) as gateway:
        yield gateway


@pytest.fixture
def api(session: aiohttp.ClientSession, running: Gateway, app: NewApp) -> Api:
    return Api(session, running.url, app.api_key)


async def late(api: Api, made: Made) -> dict[str, Any]:
    """The case of a payment that came after its order was closed, and is held."""
    order_id = (await api.created(late_payment="hold"))["order_id"]
    await api.pay(order_id, channel="wechatpay", method="native")
    assert (await api.close(order_id)).status == 200
    made.wechatpay.somebody_pays(order_id + "01")
    assert await notify(api.session, api.url, "wechatpay", order_id + "01") == 200
    (case,) = [case for case in await cases(api) if case["order_id"] == order_id]
    return case


async def cases(api: Api, **query: Any) -> list[dict[str, Any]]:
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    answer = await api.request("GET", f"/v1/cases?{asked}")
    assert answer.status == 200, answer
    found: list[dict[str, Any]] = answer.json["cases"]
    return found


async def test_a_case_shows_its_evidence_and_what_can_be_done(api: Api, made: Made) -> None:
    case = await late(api, made)
    assert (case["reason"], case["resolved_at"]) == ("late_payment", None)
    shown = (await api.request("GET", f"/v1/cases/{case['case_id']}")).json
    assert shown["evidence"]["transaction"] == f"transaction of {case['order_id']}01"
    assert shown["actions"] == ["accept", "refund", "close"]
    assert shown["order"]["state"] == "exception"


async def test_accepted_money_pays_the_order(api: Api, made: Made) -> None:
    case = await late(api, made)
    answer = await api.request("POST", f"/v1/cases/{case['case_id']}/resolve", {"action": "accept", **NOTE})
    assert answer.status == 200, answer
    assert (answer.json["resolution"], answer.json["resolved_by"], answer.json["note"]) == ("accept", *NOTE.values())
    order = await api.get(case["order_id"])
    assert (order["state"], order["paid_amount"], order["late"]) == ("paid", 100, True)
    assert await cases(api) == []
    assert [resolved["case_id"] for resolved in await cases(api, state="resolved")] == [case["case_id"]]
    again = await api.request("POST", f"/v1/cases/{case['case_id']}/resolve", {"action": "refund", **NOTE})
    again.problem(409, "case_resolved")
    last = (await api.timeline(case["order_id"]))[-1]
    assert (last["type"], last["evidence"]["by"], last["evidence"]["note"]) == ("CaseResolved", *NOTE.values())
    assert await notify(api.session, api.url, "wechatpay", case["order_id"] + "01") == 200
    assert (await api.get(case["order_id"]))["version"] == order["version"], "its notification again is nothing new"


async def test_refunded_money_goes_back_once(api: Api, made: Made) -> None:
    case = await late(api, made)
    answer = await api.request("POST", f"/v1/cases/{case['case_id']}/resolve", {"action": "refund", **NOTE})
    assert answer.json["order"]["state"] == "closed"

    async def back() -> bool:
        return bool((await api.get(case["order_id"]))["refunds"][0]["state"] == "succeeded")

    await until(back)
    assert [request.amount for request in made.wechatpay.refunds.values()] == [100]


async def test_held_money_of_another_currency_goes_back_in_that_currency(api: Api, made: Made) -> None:
    order_id = (await api.created())["order_id"]
    await api.pay(order_id, channel="wechatpay", method="native")
    trade = made.wechatpay.trades[order_id + "01"]
    trade.request = msgspec.structs.replace(trade.request, currency="USD")
    made.wechatpay.somebody_pays(order_id + "01")
    assert await notify(api.session, api.url, "wechatpay", order_id + "01") == 200
    (case,) = await cases(api)
    assert case["reason"] == "currency_mismatch"
    answer = await api.request("POST", f"/v1/cases/{case['case_id']}/resolve", {"action": "refund", **NOTE})
    assert answer.status == 200, answer

    async def back() -> bool:
        return bool((await api.get(order_id))["refunds"][0]["state"] == "succeeded")

    await until(back)
    assert [(sent.amount, sent.currency) for sent in made.wechatpay.refunds.values()] == [(100, "USD")]
    assert (await api.get(order_id))["refunds"][0]["currency"] == "USD"


async def test_what_is_not_possible_is_refused_and_says_what_is(api: Api, made: Made) -> None:
    case = await late(api, made)
    answer = await api.request("POST", f"/v1/cases/{case['case_id']}/resolve", {"action": "retry", **NOTE})
    assert "accept, refund, close" in answer.problem(409, "case_action_impossible")["detail"]
    assert [case["case_id"] for case in await cases(api)] == [case["case_id"]]


async def test_a_refund_that_we_owe_and_that_failed_is_tried_again_by_people(api: Api, made: Made) -> None:
    order_id = (await api.created())["order_id"]
    await api.pay(order_id, channel="wechatpay", method="native")
    await api.pay(order_id, channel="alipay", method="page")
    made.wechatpay.refund_refused = "no balance"
    for channel, number in (("alipay", "02"), ("wechatpay", "01")):
        made.by_name[channel].somebody_pays(order_id + number)
        assert await notify(api.session, api.url, channel, order_id + number) == 200

    async def failed() -> Any:
        return await cases(api)

    (case,) = await until(failed)
    assert case["reason"] == "refund_failed"
    made.wechatpay.refund_refused = ""
    answer = await api.request("POST", f"/v1/cases/{case['case_id']}/resolve", {"action": "retry", **NOTE})
    assert answer.status == 200, answer

    async def back() -> bool:
        return bool((await api.get(order_id))["refunds"][0]["state"] == "succeeded")

    await until(back)
    assert len(set(made.wechatpay.refunds_sent)) == 1


async def test_a_case_that_a_gateway_of_the_release_before_opened_is_settled_like_any_other(
    api: Api, made: Made, database_url: str, tmp_path: Path
) -> None:
    """It knew of no app in a case."""
    first, second = await late(api, made), await late(api, made)
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE cases SET app_id = NULL")
    await connection.close()
    answer = await api.request("POST", f"/v1/cases/{first['case_id']}/resolve", {"action": "accept", **NOTE})
    assert answer.status == 200, answer
    code, _, err = await command(tmp_path, "resolve", second["case_id"], "accept", "--by", "ann", "--note", "as it is")
    assert code == 0, err
    assert [(await api.get(case["order_id"]))["state"] for case in (first, second)] == ["paid", "paid"]


async def test_cases_come_in_pages(api: Api, made: Made) -> None:
    opened = [(await late(api, made))["case_id"] for _ in range(3)]
    first = (await api.request("GET", "/v1/cases?limit=2")).json
    assert [case["case_id"] for case in first["cases"]] == opened[:2]
    rest = (await api.request("GET", f"/v1/cases?limit=2&after={first['next_after']}")).json
    assert ([case["case_id"] for case in rest["cases"]], rest["next_after"]) == (opened[2:], None)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("state=odd", "state"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("after=x", "after"),
        ("limit=1&limit=2", "limit"),
    ],
)
async def test_bad_questions_name_their_field(api: Api, query: str, param: str) -> None:
    answer = await api.request("GET", f"/v1/cases?{query}")
    assert (answer.status, answer.json["param"]) == (400, param)


async def test_another_apps_case_does_not_exist(api: Api, made: Made, database_url: str) -> None:
    case = await late(api, made)
    stranger = Api(api.session, api.url, (await add_app(database_url, "stranger")).api_key)
    assert await cases(stranger) == []
    path = f"/v1/cases/{case['case_id']}"
    (await stranger.request("GET", path)).problem(404, "case_not_found", "case_id")
    body = {"action": "accept", **NOTE}
    (await stranger.request("POST", f"{path}/resolve", body)).problem(404, "case_not_found", "case_id")


async def test_open_cases_are_counted(api: Api, made: Made, running: Gateway, database_url: str) -> None:
    await late(api, made)
    metrics = Metrics()
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        await CaseCounter(pool, metrics).count()
    text = metrics.render().decode()
    assert 'holdfast_cases_open{reason="late_payment"} 1.0' in text
    assert 'holdfast_cases_open{reason="refund_failed"} 0.0' in text
    assert "holdfast_cases_open" in (await api.request("GET", "/metrics")).body.decode()


async def command(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """`./run case ...` as people call it."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "case", *arguments, "--config", str(folder / "gateway.toml")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(os.environ),
    )
    out, err = await child.communicate()
    return child.returncode or 0, out.decode(), err.decode()


async def test_people_settle_a_case_at_the_command_line_and_the_gateway_carries_it_out(
    api: Api, made: Made, tmp_path: Path
) -> None:
    case = await late(api, made)
    _, listed, _ = await command(tmp_path, "list")
    assert case["case_id"] in listed
    _, shown, _ = await command(tmp_path, "show", case["case_id"])
    assert json.loads(shown)["actions"] == ["accept", "refund", "close"]
    code, _, err = await command(tmp_path, "resolve", case["case_id"], "refund", "--by", "ann", "--note", "")
    assert (code, err.strip()) == (4, f"{case['case_id']}: Expected `str` of length >= 3 - at `$.note`")
    code, said, err = await command(tmp_path, "resolve", case["case_id"], "refund", "--by", "ann", "--note", "too late")
    assert (code, said.strip()) == (0, f"{case['case_id']}: refund; the order is closed"), err

    async def back() -> bool:
        return bool((await api.get(case["order_id"]))["refunds"][0]["state"] == "succeeded")

    await until(back)
    code, _, err = await command(tmp_path, "resolve", case["case_id"], "close", "--by", "ann", "--note", "again")
    assert (code, err.strip()) == (4, f"{case['case_id']} is resolved: refund by ann")
    code, _, err = await command(tmp_path, "show", "nonsense")
    assert code == 4
    assert "is no case" in err
