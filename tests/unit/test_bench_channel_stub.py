"""What the stub signs, the real channel believes."""

import time
from pathlib import Path

import pytest

from bench.channel_stub import ChannelStub, channel_config, make_merchant
from bench.scripts import AMOUNT
from bench.wire import frame
from channels.contract import Accepted, AttemptKey, ChannelPayment, NotPaid, PaymentRequest, Response, Stamp
from channels.wechatpay import WeChatPay
from channels.wechatpay_keys import load_credentials

ORDER_ID = b"01HZZZZZZZZZZZZZZZZZZZZZZZ"
NUMBER = "01HZZZZZZZZZZZZZZZZZZZZZZZ01"


def _headers_and_body(message: bytes) -> tuple[dict[str, str], bytes]:
    begins, ends = frame(message) or (0, 0)
    lines = message[:begins].decode().split("\r\n")[1:-2]
    return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}, message[begins:ends]


@pytest.fixture
def stub(tmp_path: Path) -> ChannelStub:
    return ChannelStub(tmp_path)


@pytest.fixture
def channel(stub: ChannelStub, tmp_path: Path) -> WeChatPay:
    merchant = make_merchant(tmp_path)
    credentials = load_credentials(
        mchid=merchant.mchid,
        appid=merchant.appid,
        merchant_serial=merchant.merchant_serial,
        private_key_pem=Path(merchant.private_key_file).read_bytes(),
        api_v3_key=Path(merchant.api_v3_key_file).read_bytes(),
        public_key_id=merchant.public_key_id,
        public_key_pem=Path(merchant.public_key_file).read_bytes(),
        now_s=int(time.time()),
    )
    return WeChatPay(credentials)


def _attempt() -> AttemptKey:
    return AttemptKey(NUMBER, "native", int(time.time()), int(time.time()) + 600)


def _stamp() -> Stamp:
    return Stamp(now_s=int(time.time()), nonce="0" * 32)


def _response(message: bytes) -> Response:
    headers, body = _headers_and_body(message)
    return Response(status=int(message[9:12]), headers=headers, body=body)


def test_a_prepay_is_accepted_and_signed_once_for_all_orders(stub: ChannelStub, channel: WeChatPay) -> None:
    request = PaymentRequest(
        attempt=_attempt(),
        amount=AMOUNT,
        currency="CNY",
        subject="tea",
        notify_url="http://127.0.0.1/callbacks",
    )
    flow = channel.pay(request, _stamp())
    sent = next(flow)
    answer = stub.answer(f"{sent.method} {sent.target} HTTP/1.1\r\n".encode(), sent.body)
    with pytest.raises(StopIteration) as end:
        flow.send(_response(answer))
    assert isinstance(end.value.value, Accepted)
    assert stub.answer(b"POST /v3/pay/transactions/native HTTP/1.1\r\n", b"") == answer


def test_a_query_is_answered_with_not_paid_yet(stub: ChannelStub, channel: WeChatPay) -> None:
    flow = channel.query(_attempt(), _stamp())
    sent = next(flow)
    with pytest.raises(StopIteration) as end:
        flow.send(_response(stub.answer(f"{sent.method} {sent.target} HTTP/1.1\r\n".encode(), b"")))
    assert end.value.value == NotPaid()


def test_a_notification_is_believed_and_pays_the_whole_order(stub: ChannelStub, channel: WeChatPay) -> None:
    (message,) = stub.notifications([ORDER_ID])
    assert message.startswith(b"POST /callbacks/wechatpay/%b/01 HTTP/1.1\r\n" % ORDER_ID)
    headers, body = _headers_and_body(message)
    payment = channel.notification(headers, body, int(time.time()))
    assert isinstance(payment, ChannelPayment)
    assert (payment.out_trade_no, payment.amount, payment.currency) == (NUMBER, AMOUNT, "CNY")
    assert payment.account == channel.account


async def test_webhooks_are_counted_and_waited_for_within_a_limit(stub: ChannelStub) -> None:
    await stub.told(1, within_s=0.01)
    assert stub.webhooks == 0
    assert stub.answer(b"POST /webhooks HTTP/1.1\r\n", b"{}").startswith(b"HTTP/1.1 204")
    await stub.told(1, within_s=10)
    assert stub.webhooks == 1


def test_the_config_section_names_the_stub(tmp_path: Path) -> None:
    text = channel_config(make_merchant(tmp_path), "http://127.0.0.1:1")
    assert text.startswith('[channels.wechatpay]\nbase_url = "http://127.0.0.1:1"\n')
