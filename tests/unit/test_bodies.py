"""What a body may hold, without a server: the reader's answers for any bytes."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.api.bodies import OUT_ORDER_NO, CreateOrder, Pay, Reader, check_url
from gateway.api.problems import Problem

read_create = Reader(CreateOrder)
read_pay = Reader(Pay)
# The first text ever drawn on a machine costs seconds: a table of all characters is made.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
FINE = {"out_order_no": "A-1", "amount": 1, "currency": "CNY", "subject": "x"}


def body(**fields: Any) -> bytes:
    return json.dumps({**FINE, **fields}).encode()


def refused(raw: bytes) -> Problem:
    with pytest.raises(Problem) as raised:
        read_create(raw)
    assert raised.value.detail
    return raised.value


def test_the_smallest_and_the_largest_order_are_read() -> None:
    assert read_create(body()).amount == 1
    assert read_create(body(amount=10**12)).amount == 10**12
    whole = body(
        out_order_no="".join(chr(sign) for sign in range(33, 127) if OUT_ORDER_NO.match(chr(sign)))[:64],
        subject="字" * 127,
        buyer="b" * 128,
        items=[{"name": "x"}] * 100,
        metadata={f"k{n}": "v" * 512 for n in range(50)},
        expires_in_s=604_800,
    )
    assert len(read_create(whole).items or ()) == 100


def test_a_name_in_a_text_is_not_a_field_that_stands_there_twice() -> None:
    assert read_create(body(subject='"amount":1,"amount":2')).amount == 1
    assert read_create(body(metadata={"amount": "amount", "subject": '"amount"'})).amount == 1


def test_a_backslash_alone_hides_nothing() -> None:
    assert read_create(body(subject='\\ " / \u00e9')).subject == '\\ " / \u00e9'
    assert (
        read_create(rb'{"out_order_no":"A","amount":1,"currency":"CNY","subject":"\u00e9\ud83d\ude00"}').subject
        == "é😀"
    )


@pytest.mark.parametrize("sign", [*range(0x20), 0x7F, *range(0x80, 0xA0)])
@pytest.mark.parametrize("escaped", [True, False])
def test_every_control_character_is_refused_however_it_is_written(sign: int, escaped: bool) -> None:
    text = f"\\u{sign:04x}" if escaped else chr(sign)
    problem = refused(body(subject="?").replace(b"?", text.encode()))
    if escaped or sign >= 0x7F:
        assert (problem.code, problem.param) == ("parameter_invalid", "subject")
    else:
        assert problem.code == "body_malformed", "JSON itself does not allow it"


@pytest.mark.parametrize("sign", [0xD800, 0xDBFF, 0xDC00, 0xDFFF])
def test_a_lone_surrogate_is_refused(sign: int) -> None:
    problem = refused(body(subject="?").replace(b"?", f"a\\u{sign:04X}b".encode()))
    assert (problem.code, problem.param) == ("parameter_invalid", "subject")


@pytest.mark.parametrize("name", FINE)
def test_a_field_is_found_twice_in_any_writing(name: str) -> None:
    for first in range(len(name)):
        hidden = name[:first] + f"\\u{ord(name[first]):04x}" + name[first + 1 :]
        for twin in (name, hidden):
            problem = refused(body()[:-1] + f',"{twin}": {json.dumps(FINE[name])}}}'.encode())
            assert (problem.code, problem.param) == ("parameter_duplicate", name)


def test_depth_is_no_danger() -> None:
    for opening in (b"[", b'{"a":', b'[{"subject":', b'{"metadata":'):
        for more in (b"", b'"\\u0000"', b'\\ud800"'):
            refused(opening * 10_000 + more)
            refused(body()[:-1] + b',"items":' + opening * 10_000 + more)


@unhurried
@given(st.binary(max_size=200))
def test_any_bytes_are_a_problem_and_never_a_crash(raw: bytes) -> None:
    refused(raw)


@unhurried
@given(
    st.dictionaries(
        st.sampled_from([*CreateOrder.__struct_fields__, "other"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        ),
    )
)
def test_any_values_are_read_exactly_or_refused(fields: dict[str, Any]) -> None:
    """Nothing is rounded, cut or guessed on the way in."""
    raw = json.dumps({**FINE, **fields}, ensure_ascii=True).encode()
    try:
        read = read_create(raw)
    except Problem:
        return
    for name, value in {**FINE, **fields}.items():
        if name != "items":
            assert getattr(read, name) == value
            assert type(getattr(read, name)) is type(value)


@unhurried
@given(st.text(max_size=20))
def test_a_text_that_is_taken_comes_out_as_it_went_in(text: str) -> None:
    raw = body(subject=text)
    try:
        read = read_create(raw)
    except Problem:
        forbidden = [sign for sign in text if ord(sign) < 32 or 127 <= ord(sign) < 160 or 0xD800 <= ord(sign) < 0xE000]
        assert forbidden or not text
    else:
        assert read.subject == text


@pytest.mark.parametrize(
    "url", ["https://shop.example", "http://127.0.0.1:8080/a?b=c", "https://[::1]:1/", "https://xn--kgb.example/%E5"]
)
def test_an_address_that_can_be_called_is_taken(url: str) -> None:
    check_url("webhook_url", url)
    check_url("webhook_url", None)


@pytest.mark.parametrize("field", ["channel", "method"])
@pytest.mark.parametrize("value", ["", "A", "a b", "a-b", "a\n", "x" * 33, None, 1])
def test_channels_and_methods_are_words(field: str, value: Any) -> None:
    with pytest.raises(Problem) as raised:
        read_pay(json.dumps({"channel": "wechatpay", "method": "native", field: value}).encode())
    assert (raised.value.code, raised.value.param) == ("parameter_invalid", field)
