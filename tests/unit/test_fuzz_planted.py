"""The fuzz finds what is wrong: adapters that forget one check are caught, by the mutants made for it."""

import time
from collections.abc import Callable, Iterator, Mapping

import msgspec
import pytest

from bench.fuzz.corpus import SACRIFICED, Corpus, Kind, Scene, Wanted, make_corpus, make_scene
from bench.fuzz.handling import Finding
from bench.fuzz.judged import Judged
from bench.fuzz.kinds import KINDS
from bench.fuzz.parties import make_parties
from channels import signing
from channels.contract import Channel, ChannelPayment, Notified
from channels.errors import NotificationRejected

MUTANTS = 6_000
Notification = Callable[[Mapping[str, str], bytes, int], Notified]


class Wired(msgspec.Struct, frozen=True):
    """A channel kind with messages of its own."""

    kind: Kind
    scene: Scene
    corpus: Corpus


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Wired]:
    parties = make_parties(tmp_path_factory.mktemp("fuzz"), list(KINDS))
    wired = {}
    for name, kind in KINDS.items():
        place = f"http://127.0.0.1:1/callbacks/{name}"
        numbers = [f"01HZZZZZZZZZZZZZZZZZZZZZ{number:02d}" for number in range(SACRIFICED + 3)]
        wanted = [Wanted(f"{each}01", 1_000 + at, f"{place}/{each}/01") for at, each in enumerate(numbers)]
        scene = make_scene(kind, parties, wanted)
        wired[name] = Wired(kind, scene, make_corpus(kind, scene))
    return wired


@pytest.fixture(params=list(KINDS))
def wired(request: pytest.FixtureRequest, every: dict[str, Wired]) -> Wired:
    one: Wired = every[request.param]
    return one


class Planted:
    """The channel, but for what `notification` does."""

    def __init__(
        self, channel: Channel, notification: Callable[[Notification, Mapping[str, str], bytes, int], Notified]
    ):
        self._channel, self._notification = channel, notification

    def __getattr__(self, name: str) -> object:
        return getattr(self._channel, name)

    def notification(self, headers: Mapping[str, str], body: bytes, now_s: int) -> Notified:
        return self._notification(self._channel.notification, headers, body, now_s)


def found(wired: Wired, channel: object = None, mutants: int = MUTANTS, seed: int = 1) -> list[Finding]:
    judged = Judged(wired.kind, channel or wired.scene.channel, seed)  # type: ignore[arg-type]
    judged.use(wired.corpus)
    for _ in judged.mutants(mutants):
        pass
    return judged.findings


def test_nothing_is_found_in_a_channel_as_it_is(wired: Wired) -> None:
    assert found(wired) == []


def test_a_channel_that_does_not_verify_signatures_is_found(wired: Wired, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "verify", lambda *_: True)
    findings = found(wired)
    assert findings
    assert all(each.what.startswith("believed") for each in findings)


def test_a_channel_that_takes_one_of_two_fields_is_found(wired: Wired) -> None:
    if wired.kind.channel == "wechatpay":
        pytest.skip("its body is no form")

    def last_wins(genuine: Notification, headers: Mapping[str, str], body: bytes, now_s: int) -> Notified:
        fields = dict(part.partition(b"=")[::2] for part in body.split(b"&"))
        return genuine(headers, b"&".join(b"%b=%b" % field for field in fields.items()), now_s)

    findings = found(wired, Planted(wired.scene.channel, last_wins))
    assert any(each.mutation.startswith("field doubled") for each in findings)


def test_a_channel_that_decodes_twice_is_found(wired: Wired) -> None:
    if wired.kind.channel == "wechatpay":
        pytest.skip("its body is no form")

    def twice(genuine: Notification, headers: Mapping[str, str], body: bytes, now_s: int) -> Notified:
        return genuine(headers, body.replace(b"%25", b"%"), now_s)

    assert any("encoded twice" in each.mutation for each in found(wired, Planted(wired.scene.channel, twice)))


def test_a_channel_that_says_our_account_whatever_was_said_is_found(wired: Wired) -> None:
    if not any(crafted.mutation == "genuine, another merchant's" for crafted in wired.corpus.odd):
        pytest.skip("each merchant has keys of its own")

    def ours(genuine: Notification, headers: Mapping[str, str], body: bytes, now_s: int) -> Notified:
        told = genuine(headers, body, now_s)
        return msgspec.structs.replace(told, account=wired.scene.channel.account)

    if wired.kind.channel == "wechatpay":
        assert found(wired, Planted(wired.scene.channel, ours)) == []  # what is another's is sealed with another key
    else:
        findings = found(wired, Planted(wired.scene.channel, ours), mutants=2 * MUTANTS)
        assert "taken for ours" in findings[0].what


def test_a_channel_that_takes_old_messages_is_found(every: dict[str, Wired]) -> None:
    wired = every["wechatpay"]

    def ageless(genuine: Notification, headers: Mapping[str, str], body: bytes, now_s: int) -> Notified:
        stated = headers.get("wechatpay-timestamp", "")
        return genuine(
            headers, body, int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 13 else now_s
        )

    findings = found(wired, Planted(wired.scene.channel, ageless))
    assert any(each.mutation.startswith("old or from the future") for each in findings)


def test_a_channel_that_raises_something_else_is_found(wired: Wired) -> None:
    def strict(genuine: Notification, headers: Mapping[str, str], body: bytes, now_s: int) -> Notified:
        body.decode()
        return genuine(headers, body, now_s)

    findings = found(wired, Planted(wired.scene.channel, strict))
    assert findings
    assert all(each.what.startswith("raised UnicodeDecodeError") for each in findings)


def test_a_channel_that_is_slow_with_large_bodies_is_found(wired: Wired) -> None:
    def slow(genuine: Notification, headers: Mapping[str, str], body: bytes, now_s: int) -> Notified:
        until_ns = time.thread_time_ns() + (6_000_000 if len(body) > 60_000 else 0)
        while time.thread_time_ns() < until_ns:
            pass
        return genuine(headers, body, now_s)

    findings = found(wired, Planted(wired.scene.channel, slow), mutants=1_000)
    assert findings
    assert all("ms of CPU time" in each.what for each in findings)


def test_a_channel_that_believes_what_was_changed_after_signing_is_found(wired: Wired) -> None:
    """As a cache of answers would that looks at the signature alone."""
    believed: dict[bytes, Notified] = {}

    def cached(genuine: Notification, headers: Mapping[str, str], body: bytes, now_s: int) -> Notified:
        key = headers.get("wechatpay-signature", "").encode() or _signature_in(body)
        if key not in believed:
            believed[key] = genuine(headers, body, now_s)
        return believed[key]

    findings = found(wired, Planted(wired.scene.channel, cached))
    assert findings
    assert all(each.what.startswith("believed") for each in findings)


def _signature_in(body: bytes) -> bytes:
    fields: Iterator[tuple[bytes, bytes, bytes]] = (part.partition(b"=") for part in body.split(b"&"))
    return next((value for name, _, value in fields if name in (b"sign", b"signature")), b"")


def test_a_seed_and_a_number_make_the_same_mutant_again(wired: Wired) -> None:
    first = found_mutants(wired, seed=5)
    assert first == found_mutants(wired, seed=5)
    assert first != found_mutants(wired, seed=6)


def found_mutants(wired: Wired, seed: int) -> list[bytes]:
    judged = Judged(wired.kind, wired.scene.channel, seed)
    judged.use(wired.corpus)
    return [mutant.message.wire() for mutant in judged.mutants(300)]


def test_a_corpus_whose_genuine_messages_are_not_believed_is_refused(wired: Wired) -> None:
    judged = Judged(wired.kind, wired.scene.channel, 1)
    broken = tuple(message._replace(body=b"x" + message.body) for message in wired.corpus.genuine)
    with pytest.raises(NotificationRejected):
        judged.use(msgspec.structs.replace(wired.corpus, genuine=broken))


def test_every_genuine_message_says_its_orders_amount(wired: Wired) -> None:
    for at, message in enumerate(wired.corpus.genuine):
        told = wired.scene.channel.notification(message.headers_seen(), message.body, int(time.time()))
        assert isinstance(told, ChannelPayment)
        assert (told.amount, told.account) == (1_000 + SACRIFICED + at, wired.scene.channel.account)
