"""WeChat Pay: what each way to pay sends and gives, and what an app must say with it."""

import json
import re
from base64 import b64decode

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from msgspec.structs import replace

from channels.contract import Accepted, CredentialType, PaymentRequest, Refused, Unknown
from channels.errors import NoAnswer
from tests.unit.wechatpay_platform import APPID, ATTEMPT, MCHID, NOW_S, REQUEST, STAMP, answer, channel, key, run

PREPAY_ID = "wx201410272009395522657a690389285100"
H5_URL = "https://wx.tenpay.com/cgi-bin/mmpayweb-bin/checkmweb?prepay_id=wx20161110163838f231619da&package=1037687096"
OPENID = "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"
H5 = {"payer_client_ip": "2001:db8::1", "type": "Wap"}
PARAMS = {"native": {}, "jsapi": {"openid": OPENID}, "mini": {"openid": OPENID}, "h5": H5, "app": {}}
GIVES = {
    "native": {"code_url": "weixin://wxpay/bizpayurl?pr=x"},
    "jsapi": {"prepay_id": PREPAY_ID},
    "mini": {"prepay_id": PREPAY_ID},
    "h5": {"h5_url": H5_URL},
    "app": {"prepay_id": PREPAY_ID},
}


def request(method: str, life_s: int = 1800, **how: object) -> PaymentRequest:
    attempt = replace(ATTEMPT, method=method, expires_at_s=NOW_S + life_s)
    return replace(REQUEST, attempt=attempt, **{"params": PARAMS[method], **how})


def sent(asked: PaymentRequest) -> tuple[str, dict]:
    _, [prepay] = run(channel().pay(asked, STAMP), NoAnswer("x", sent=True))
    return prepay.target, json.loads(prepay.body)


def credential(method: str, **how: object):
    outcome, _ = run(channel().pay(request(method, **how), STAMP), answer(GIVES[method]))
    assert isinstance(outcome, Accepted)
    return outcome.credential


def signed_by_the_merchant(signature: str, *lines: str) -> None:
    message = "".join(f"{line}\n" for line in lines).encode()
    key("merchant").public_key().verify(b64decode(signature), message, PKCS1v15(), SHA256())


# --- what is sent

SPECIAL = {
    "native": ("native", {}),
    "jsapi": ("jsapi", {"payer": {"openid": OPENID}}),
    "mini": ("jsapi", {"payer": {"openid": OPENID}}),
    "h5": ("h5", {"scene_info": {"payer_client_ip": "2001:db8::1", "h5_info": {"type": "Wap"}}}),
    "app": ("app", {}),
}


@pytest.mark.parametrize("method", SPECIAL)
def test_each_method_says_what_is_special_beside_what_all_say(method):
    path, special = SPECIAL[method]
    _, common = sent(request("native"))
    assert sent(request(method)) == (f"/v3/pay/transactions/{path}", {**common, **special})


def test_an_h5_prepay_names_the_application_where_the_app_does():
    more = {"package_name": "com.example", "app_name": "店", "app_url": "https://m.example.com", "bundle_id": "com.e"}
    _, body = sent(request("h5", params={**more, **H5}))
    assert body["scene_info"]["h5_info"] == {"type": "Wap", **more}
    assert list(body["scene_info"]["h5_info"]) == ["type", "app_name", "app_url", "bundle_id", "package_name"]


# --- what the payer is given


def test_the_kind_of_credential_is_the_method_s():
    kinds = {method: credential(method).type for method in GIVES}
    assert kinds == {name: method.credential for name, method in channel().methods.items()}
    assert kinds["h5"] is CredentialType.URL


@pytest.mark.parametrize("method", ["jsapi", "mini"])
def test_the_parameters_of_a_page_are_signed_over_package(method):
    given = json.loads(credential(method).value)
    assert list(given) == ["appId", "timeStamp", "nonceStr", "package", "signType", "paySign"]
    assert (given["appId"], given["timeStamp"], given["signType"]) == (APPID, str(NOW_S), "RSA")
    assert given["package"] == f"prepay_id={PREPAY_ID}"
    assert re.fullmatch("[0-9a-f]{32}", given["nonceStr"])
    signed_by_the_merchant(given["paySign"], APPID, str(NOW_S), given["nonceStr"], f"prepay_id={PREPAY_ID}")


def test_the_parameters_of_an_application_are_signed_over_the_bare_prepay_id():
    given = json.loads(credential("app").value)
    assert list(given) == ["appid", "partnerid", "prepayid", "package", "noncestr", "timestamp", "sign"]
    assert (given["appid"], given["partnerid"], given["prepayid"]) == (APPID, MCHID, PREPAY_ID)
    assert (given["package"], given["timestamp"]) == ("Sign=WXPay", str(NOW_S))
    signed_by_the_merchant(given["sign"], APPID, str(NOW_S), given["noncestr"], PREPAY_ID)


def test_the_front_end_s_nonce_is_none_of_the_requests():
    _, [prepay] = run(channel().pay(request("app"), STAMP), NoAnswer("x", sent=True))
    assert json.loads(credential("app").value)["noncestr"] not in prepay.headers["Authorization"]


def test_an_h5_address_leads_back_to_the_return_url():
    assert credential("h5").value == H5_URL
    back = credential("h5", return_url="https://shop.example.com/done?a=1&b=店")
    assert back.value == f"{H5_URL}&redirect_url=https%3A%2F%2Fshop.example.com%2Fdone%3Fa%3D1%26b%3D%E5%BA%97"


@pytest.mark.parametrize(
    ("method", "life_s"), [("native", 7200), ("jsapi", 7200), ("mini", 7200), ("app", 7200), ("h5", 300)]
)
def test_what_is_given_lives_as_long_as_the_platform_says_and_never_past_the_expiry(method, life_s):
    assert credential(method, life_s=100_000).expires_at_s == NOW_S + life_s
    assert credential(method, life_s=200).expires_at_s == NOW_S + 200


@pytest.mark.parametrize("method", GIVES)
@pytest.mark.parametrize(
    "gives",
    [
        {},
        {"code_url": "", "prepay_id": "", "h5_url": ""},
        {"code_url": None, "prepay_id": None, "h5_url": None},
        {"code_url": 1, "prepay_id": 1, "h5_url": 1},
        {"code_url": "a b", "prepay_id": "a\n", "h5_url": "javascript:alert(1)"},
        {"code_url": "x" * 2000, "prepay_id": "x" * 2000, "h5_url": "https://" + "x" * 2000},
    ],
)
def test_an_answer_without_what_the_payer_needs_is_unknown(method, gives):
    outcome, _ = run(channel().pay(request(method), STAMP), answer(gives))
    assert type(outcome) is Unknown


# --- what an app says wrong

WRONG = [
    ("jsapi", {}, "openid"),
    ("mini", {"openid": ""}, "openid"),
    ("jsapi", {"openid": "a b"}, "openid"),
    ("jsapi", {"openid": "x" * 129}, "openid"),
    ("jsapi", {"openid": 7}, "openid"),
    ("jsapi", {"openid": OPENID, "payer_client_ip": "1.2.3.4"}, "payer_client_ip"),
    ("native", {"openid": OPENID}, "openid"),
    ("app", {"openid": OPENID}, "openid"),
    ("h5", {}, "payer_client_ip"),
    ("h5", {"payer_client_ip": "1.2.3.4"}, "type"),
    ("h5", {"payer_client_ip": "example.com", "type": "Wap"}, "payer_client_ip"),
    ("h5", {"payer_client_ip": "1234", "type": "Wap"}, "payer_client_ip"),
    ("h5", {"payer_client_ip": "1.2.3.4", "type": "wap"}, "type"),
    ("h5", {**H5, "app_name": "x" * 65}, "app_name"),
    ("h5", {**H5, "app_name": "\ud800"}, "app_name"),
    ("h5", {**H5, "openid": OPENID}, "openid"),
]


@pytest.mark.parametrize(("method", "params", "name"), WRONG)
def test_wrong_params_are_refused_by_name_and_never_sent(method, params, name):
    outcome, requests = run(channel().pay(request(method, params=params), STAMP))
    assert isinstance(outcome, Refused)
    assert outcome.code == "invalid_request"
    assert outcome.message.startswith(f"params.{name}: ")
    assert requests == []
