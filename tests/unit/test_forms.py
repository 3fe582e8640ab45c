"""Forms of the wire: decoded once, nothing said twice, in any charset."""

from urllib.parse import parse_qsl, quote_plus, unquote_to_bytes, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels import forms


def decode_bytes(body):
    return {name.encode(forms.BYTES): value.encode(forms.BYTES) for name, value in forms.read(body).fields.items()}


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.dictionaries(TEXTS.filter(bool), TEXTS, max_size=8))
def test_what_is_encoded_is_what_the_standard_library_writes_and_is_decoded_again(fields):
    assert forms.encode(fields) == urlencode(fields).encode()
    assert forms.decode(forms.encode(fields)) == fields


@given(TEXTS)
def test_a_text_is_quoted_as_the_standard_library_quotes_it(text):
    assert forms.quoted(text) == quote_plus(text)


@given(st.binary(max_size=40), st.binary(min_size=1, max_size=10))
def test_any_bytes_survive_being_quoted(value, name):
    body = f"{quote_plus(name)}={quote_plus(value)}".encode()
    assert decode_bytes(body) == {name: value}


@given(st.lists(st.sampled_from(["%41", "%e6", "%E6", "a", "b", "+", "%2B", "%3D", "%26", "%0A", "%0D", "-", "_"])))
def test_well_formed_escapes_are_read_as_the_standard_library_reads_them(parts):
    text = "".join(parts)
    assert decode_bytes(f"k={text}".encode()) == {b"k": unquote_to_bytes(text.replace("+", " "))}


@given(st.binary(max_size=60))
def test_no_body_is_anything_but_fields_or_a_form_error(body):
    try:
        fields = decode_bytes(body)
    except forms.FormError:
        return
    assert all(isinstance(value, bytes) for value in fields.values())


def test_it_is_decoded_once_and_both_ways_to_write_a_blank_are_read():
    assert forms.decode(b"a=1+2%203&b=%252B&c=%2B") == {"a": "1 2 3", "b": "%2B", "c": "+"}


def test_a_value_may_hold_what_separates_if_it_is_escaped_and_an_equals_sign_even_if_not():
    assert forms.decode(b"a=%26b%3Dc&d=e=f") == {"a": "&b=c", "d": "e=f"}


def test_empty_values_names_without_a_sign_and_empty_parts():
    assert forms.decode(b"&a=&b&&c=1&") == {"a": "", "b": "", "c": "1"}
    assert forms.decode(b"") == {}


@pytest.mark.parametrize(
    "body",
    [b"a=%%", b"a=1%", b"a=%zz&b=1", b"a=%4", b"%=1", b"a=%u0041", b"a=1%\n2", b"a=1\n", b"a=%\r2&b=%zz", b"a=%\r\n"],
)
def test_what_is_no_percent_encoding_is_refused(body):
    with pytest.raises(forms.FormError, match=r"escape|percent-encoded"):
        decode_bytes(body)


@given(
    st.lists(st.sampled_from(["%1E", "%1f", "\x1e", "\x1f", "%26", "%3D", "=", "a", "+", "%25"])),
    st.lists(st.sampled_from(["%1E", "%1f", "\x1e", "\x1f", "%26", "%3D", "b"]), min_size=1),
)
def test_the_bytes_that_stand_for_separators_meanwhile_may_be_in_it(value, name):
    name, value = "".join(name), "".join(value)
    expected = {unquote_to_bytes(name): unquote_to_bytes(value.replace("+", " ")), b"z": b"="}
    assert decode_bytes(f"{name}={value}&z==".encode()) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {b"subject": b"tea&total_amount=0.01"},
        {b"app_id": b"1&seller_id=2"},
        {b"app_id=1&seller_id": b"2"},
        {b"a&b": b""},
        {b"x": b"1", b"bizType": b"000000&currencyCode=156"},
    ],
)
def test_fields_that_may_have_been_cut_out_of_others_are_seen(fields):
    assert forms.read(urlencode(fields).encode()).holds_other_fields()
    assert forms.read(b"&" + urlencode(fields).encode()).holds_other_fields()


def test_an_ampersand_alone_begins_no_field():
    body = urlencode({b"subject": b"A&B=C & more", b"sign": b"abc==", b"body": b"a=b"}).encode()
    assert not forms.read(body).holds_other_fields()
    assert not forms.read(body + b"&").holds_other_fields()
    assert not forms.read(b"").holds_other_fields()


@given(
    st.dictionaries(st.from_regex(r"[A-Za-z_]{1,5}", fullmatch=True), TEXTS, max_size=8),
    st.sampled_from(["", "&", "&&extra", "&extra=", "&extra=a=b"]),
    st.booleans(),
)
def test_the_string_that_is_signed_is_made_of_the_sorted_fields(fields, more, empties):
    form = forms.read(urlencode(fields).encode() + more.encode())
    wanted = {name: value for name, value in form.fields.items() if (value or empties) and name not in ("a", "extra")}
    joined = "&".join(f"{name}={wanted[name]}" for name in sorted(wanted))
    assert form.string(("a", "extra"), empties=empties) == joined.encode(forms.BYTES)


@pytest.mark.parametrize("body", [b"a=1&a=2", b"a=1&a=1", b"a=1&%61=1", b"a&a=", b"=1&=2"])
def test_a_name_that_is_there_twice_is_refused(body):
    with pytest.raises(forms.FormError, match="twice"):
        decode_bytes(body)


def test_a_form_of_more_fields_than_anybody_sends_is_refused():
    fields = [f"f{number}=1" for number in range(forms.FIELDS_MAX)]
    assert len(decode_bytes("&".join(fields).encode())) == forms.FIELDS_MAX
    with pytest.raises(forms.FormError, match="more than"):
        decode_bytes("&".join([*fields, "x=1"]).encode())
    with pytest.raises(forms.FormError, match="more than"):
        decode_bytes(b"&" * 1_000_000)


def test_a_charset_is_kept_to():
    assert forms.encode({"a": "测 试"}, "gbk") == b"a=%B2%E2+%CA%D4"
    assert forms.decode(b"a=%B2%E2+%CA%D4", "gbk") == {"a": "测 试"}
    assert decode_bytes(b"a=%B2%E2") == {b"a": b"\xb2\xe2"}
    with pytest.raises(forms.FormError, match="not utf-8"):
        forms.decode(b"a=%B2%E2")


def test_it_agrees_with_the_standard_library_about_a_real_body():
    body = "subject=yansongda%2B%E6%B5%8B%E8%AF%95+-+1&sign=Rs7S%2F%2B%3D%3D&list=%5B%7B%22a%22%3A%221%22%7D%5D"
    assert forms.decode(body.encode()) == dict(parse_qsl(body))
