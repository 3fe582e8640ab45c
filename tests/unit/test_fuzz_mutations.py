"""The fuzz's mutants: reproducible, really broken, and its oracle knows which are not."""

from collections import Counter
from random import Random

import pytest

from bench.fuzz import bytewise, jsonwise
from bench.fuzz.formwise import Form
from bench.fuzz.message import BODY_BYTES_MAX, Message, body_of, form_meaning, message_of, pairs_of, sealed_meaning

FORM = Form(
    signature=b"sign",
    unsigned=(b"sign_type",),
    telling=(b"total_amount", b"out_trade_no"),
    downgrades=((b"sign_type", b"RSA"), (b"sign", None)),
)
FORM_TYPE = b"application/x-www-form-urlencoded"
FORMS = tuple(
    Message(b"/callbacks/alipay/%b/01" % order, ((b"Content-Type", FORM_TYPE), (b"User-Agent", order)), body)
    for order, body in (
        (
            b"A",
            b"out_trade_no=A01&total_amount=12.00&subject=tea+%2B+cake&sign=abc%2Bdef%3D%3D&sign_type=RSA2&charset=utf-8",
        ),
        (b"B", b"out_trade_no=B01&total_amount=99.00&subject=milk&sign=xyz%3D&sign_type=RSA2&charset=utf-8"),
    )
)
SEALED = tuple(
    Message(
        b"/callbacks/wechatpay/%b/01" % order,
        (
            (b"Wechatpay-Timestamp", b"17000000%b" % number),
            (b"Wechatpay-Nonce", order * 32),
            (b"Wechatpay-Signature", order * 344),
            (b"Wechatpay-Serial", b"PUB_KEY_ID_1"),
            (b"User-Agent", b"Mozilla/4.0"),
        ),
        b'{"id":"%b","resource":{"nonce":"x%b","ciphertext":"y%b"}}' % (number, number, number),
    )
    for order, number in ((b"A", b"01"), (b"B", b"02"))
)
ALL = (
    *((name, mutation, FORMS) for _, name, mutation in (*bytewise.mutations(1), *FORM.mutations())),
    *((name, mutation, SEALED) for _, name, mutation in (*bytewise.mutations(3), *jsonwise.mutations())),
)
IDS = [f"{'form' if messages is FORMS else 'sealed'} {name}" for name, _, messages in ALL]


@pytest.mark.parametrize(("name", "mutation", "messages"), ALL, ids=IDS)
def test_a_mutation_is_made_again_by_the_same_dice_and_changes_something(
    name: str, mutation: bytewise.Mutation, messages: tuple[Message, ...]
) -> None:
    made = [mutation(Random(seed), messages[0], messages) for seed in range(200)]
    assert made == [mutation(Random(seed), messages[0], messages) for seed in range(200)]
    changed = sum(each != messages[0] for each in made)
    assert changed >= 40, name
    assert len(set(made)) > 1


@pytest.mark.parametrize(("name", "mutation", "messages"), ALL, ids=IDS)
def test_a_mutation_takes_whatever_an_earlier_one_left(
    name: str, mutation: bytewise.Mutation, messages: tuple[Message, ...]
) -> None:
    strange = (
        Message(b"/", (), b""),
        Message(b"", ((b"", b""),), b"&&=&"),
        Message(b"/x", ((b"A", b"\xff"),), b"{" * 200),
        Message(b"/x", ((b"A", b"\xff"),), bytes(range(256))),
    )
    for seed in range(100):
        for message in strange:
            mutation(Random(seed), message, (*messages, *strange))


@pytest.mark.parametrize(("name", "mutation", "messages"), ALL, ids=IDS)
def test_no_mutation_makes_a_second_request_of_one(
    name: str, mutation: bytewise.Mutation, messages: tuple[Message, ...]
) -> None:
    for seed in range(100):
        mutant = mutation(Random(seed), messages[0], messages)
        head, _, body = mutant.wire().partition(b"\r\n\r\n")
        assert body == mutant.body
        assert head.count(b"\n") == head.count(b"\r\n") == len(mutant.headers) + 2
        assert len(mutant.body) <= BODY_BYTES_MAX + 20_000


def _meanings(name: str) -> Counter[bool]:
    """How often a mutation of the form leaves its meaning."""
    [mutation] = [mutation for _, each, mutation in FORM.mutations() if each == name]
    genuine = form_meaning(FORMS[0])
    return Counter(form_meaning(mutation(Random(seed), FORMS[0], FORMS)) == genuine for seed in range(100))


def test_fields_in_another_order_or_spelling_mean_the_same() -> None:
    assert _meanings("fields reordered") == {True: 100}
    assert _meanings("encoded otherwise") == {True: 100}


@pytest.mark.parametrize("name", ["telling field dropped", "field doubled", "downgrade", "huge value", "many fields"])
def test_what_changes_what_is_said_is_never_neutral(name: str) -> None:
    neutral = _meanings(name)[True]
    assert (neutral > 0) == (name == "many fields")  # some of those are empty, and an empty field says nothing


def test_an_empty_field_more_or_a_header_less_leaves_a_forms_meaning() -> None:
    genuine = form_meaning(FORMS[0])
    assert form_meaning(FORMS[0]._replace(headers=(), body=b"&" + FORMS[0].body + b"&more=")) == genuine
    assert form_meaning(FORMS[0]._replace(path=b"/callbacks/alipay/A/01?x=1")) == genuine
    assert form_meaning(FORMS[0]._replace(path=b"/callbacks/alipay/B/01")) != genuine
    assert form_meaning(FORMS[0]._replace(body=FORMS[0].body.replace(b"RSA2", b"RSA"))) != genuine


def test_a_form_that_says_a_thing_twice_has_no_meaning() -> None:
    assert form_meaning(FORMS[0]._replace(body=FORMS[0].body + b"&subject=tea+%2B+cake")) is None
    assert form_meaning(FORMS[0]._replace(body=FORMS[0].body + b"&%73ubject=tea")) is None


def test_a_sealed_message_means_its_raw_body_and_the_headers_that_sign_it() -> None:
    genuine = sealed_meaning(SEALED[0])
    headers = SEALED[0].headers
    lower = tuple((name.lower(), b"  " + value + b"\t") for name, value in headers)
    assert sealed_meaning(SEALED[0]._replace(headers=lower)) == genuine
    assert sealed_meaning(SEALED[0]._replace(headers=headers[:-1])) == genuine
    assert sealed_meaning(SEALED[0]._replace(headers=headers[1:])) != genuine
    assert sealed_meaning(SEALED[0]._replace(headers=(*headers, headers[0]))) != genuine
    assert sealed_meaning(SEALED[0]._replace(body=SEALED[0].body + b" ")) != genuine
    weaker = (*headers, (b"Wechatpay-Signature-Type", b"WECHATPAY2-MD5"))
    assert sealed_meaning(SEALED[0]._replace(headers=weaker)) != genuine


def test_headers_are_seen_as_the_gateway_hands_them_to_a_channel() -> None:
    message = Message(b"/", ((b"A", b" 1 "), (b"a", b"2"), (b"B", b"\xff\xed\xa0\x80"), (b"C", b"x\r\ny")), b"")
    assert message.headers_seen() == {"a": "1, 2", "b": r"\xff\xed\xa0\x80", "c": "x\x0b\x0by"}


def test_a_notification_of_the_simulators_becomes_a_message() -> None:
    message = message_of("http://127.0.0.1:80/callbacks/x/A/01", {"A": "b"}, b"body")
    assert message == Message(b"/callbacks/x/A/01", ((b"A", b"b"),), b"body")


def test_a_form_survives_being_taken_apart() -> None:
    assert body_of(pairs_of(FORMS[0].body)) == FORMS[0].body
