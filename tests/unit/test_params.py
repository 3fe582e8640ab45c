"""What an app may say with a method, and how a mistake is named."""

import pytest

from channels.contract import CredentialType, Method, Param
from channels.params import mistake_in

METHOD = Method(
    name="h5",
    about="",
    credential=CredentialType.URL,
    params=(
        Param(name="ip", about="the payer's address", required=True, pattern=r"[0-9.]+"),
        Param(name="type", about="where they are", choices=("Wap", "iOS")),
        Param(name="app", about="the app's name", chars_max=5),
    ),
)
NOTHING = Method(name="native", about="", credential=CredentialType.QR)


@pytest.mark.parametrize(
    "params",
    [{"ip": "1.2.3.4"}, {"ip": "1", "type": "iOS"}, {"ip": "1", "app": "五个字符呢"}],
)
def test_what_the_method_takes_is_no_mistake(params):
    assert mistake_in(params, METHOD) == ""


@pytest.mark.parametrize(
    ("params", "mistake"),
    [
        ({}, "params.ip: needed: the payer's address"),
        ({"ip": ""}, "params.ip: must have 1 to 128 characters"),
        ({"ip": "1\n"}, "params.ip: must be text without control characters"),
        ({"ip": "x"}, "params.ip: is not the payer's address"),
        ({"ip": 1}, "params.ip: must be text without control characters"),
        ({"ip": "1", "type": "wap"}, "params.type: must be one of Wap, iOS"),
        ({"ip": "1", "app": "123456"}, "params.app: must have 1 to 5 characters"),
        ({"ip": "1", "app": "a\0"}, "params.app: must be text without control characters"),
        ({"ip": "1", "app": "a\ud800"}, "params.app: must be text without control characters"),
        ({"ip": "1", "app": None}, "params.app: must not be null: the app's name"),
        ({"ip": "1", "other": "x"}, "params.other: h5 does not take it; possible: ip, type, app"),
    ],
)
def test_a_mistake_is_named_by_its_field(params, mistake):
    assert mistake_in(params, METHOD) == mistake


def test_a_method_without_params_takes_none():
    assert mistake_in({}, NOTHING) == ""
    assert mistake_in({"openid": "x"}, NOTHING) == "params.openid: native does not take it; possible: none"
