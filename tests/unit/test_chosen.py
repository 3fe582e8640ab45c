"""What a pay may ask of this installation: every mistake is named with what is possible, in microseconds."""

import json
from typing import Any

import pytest

from channels.contract import Channel
from gateway.api.bodies import Pay, Reader
from gateway.api.channels import chosen
from gateway.api.problems import Problem
from gateway.effect_runner import InstalledChannel
from gateway.metrics import Metrics
from gateway.transport import Transport
from tests.integration.made_up_channels import make_three

NATIVE: dict[str, Any] = {"channel": "wechatpay", "method": "native"}
JSAPI: dict[str, Any] = {"channel": "wechatpay", "method": "jsapi", "params": {"openid": "o1"}}
read_pay = Reader(Pay)


def installed(channel: Channel) -> InstalledChannel:
    transport = Transport(
        channel.name, "http://127.0.0.1:9", timeout_s=1, concurrency=1, queue_max=1, metrics=Metrics()
    )
    return InstalledChannel(channel, transport)


CHANNELS = {name: installed(channel) for name, channel in make_three().by_name.items()}


def choose(body: dict[str, Any]) -> Channel:
    return chosen(CHANNELS, read_pay(json.dumps(body).encode()))


WRONG: list[tuple[dict[str, Any], str, str, str]] = [
    ({"channel": "cash", "method": "native"}, "channel_not_installed", "channel", "alipay, unionpay, wechatpay"),
    ({"channel": "wechatpay", "method": "page"}, "method_not_offered", "method", "jsapi, native"),
    ({**NATIVE, "params": {"openid": "o1"}}, "parameter_unknown", "params.openid", "possible: none"),
    ({**JSAPI, "params": None}, "parameter_missing", "params.openid", "the payer's id"),
    ({**JSAPI, "params": {}}, "parameter_missing", "params.openid", "the payer's id"),
    ({**JSAPI, "params": {"openid": "o1", "x": "1"}}, "parameter_unknown", "params.x", "openid, scene, payer_ip"),
    ({**JSAPI, "params": {"openid": None}}, "parameter_invalid", "params.openid", "the payer's id"),
    ({**JSAPI, "params": {"openid": ""}}, "parameter_invalid", "params.openid", "1 to 28"),
    ({**JSAPI, "params": {"openid": "o" * 29}}, "parameter_invalid", "params.openid", "1 to 28"),
    ({**JSAPI, "params": {"openid": "o" * 9000}}, "parameter_invalid", "params.openid", "1 to 28"),
    ({**JSAPI, "params": {"openid": "o1", "scene": "car"}}, "parameter_invalid", "params.scene", "shop, home"),
    ({**JSAPI, "params": {"openid": "o1", "payer_ip": "::1"}}, "parameter_invalid", "params.payer_ip", "IPv4"),
    *(
        ({**JSAPI, "params": {"openid": value}}, "parameter_invalid", "params.openid", "text")
        for value in (1, 1.5, True, [], ["o1"], {}, {"a": "b"}, 10**400)
    ),
    ({**JSAPI, "params": {"openid": "\x7f"}}, "parameter_invalid", "params.openid", "control"),
    ({**JSAPI, "params": {f"p{n}": "x" for n in range(21)}}, "parameter_invalid", "params", "20"),
    ({**JSAPI, "params": {"": "x"}}, "parameter_unknown", "params.", "possible"),
    ({**JSAPI, "params": "openid"}, "parameter_invalid", "params", ""),
]


@pytest.mark.parametrize(("pay", "code", "param", "named"), WRONG, ids=lambda value: str(value)[:60])
def test_what_is_wrong_is_named_with_what_is_possible(pay: dict[str, Any], code: str, param: str, named: str) -> None:
    with pytest.raises(Problem) as raised:
        choose(pay)
    assert (raised.value.code, raised.value.param) == (code, param)
    assert named in raised.value.detail


RIGHT = [
    NATIVE,
    {**NATIVE, "params": {}},
    JSAPI,
    {**JSAPI, "params": {"openid": "支付者", "scene": "home", "payer_ip": "192.0.2.1"}},
    {"channel": "unionpay", "method": "barcode", "params": {"code": "6200"}},
]


@pytest.mark.parametrize("pay", RIGHT, ids=lambda value: str(value)[:60])
def test_what_a_method_takes_is_taken(pay: dict[str, Any]) -> None:
    assert choose(pay).name == pay["channel"]
