"""The timeline of chaos: from the seed alone, every kind in its turn, nothing that cannot be inflicted."""

from collections import Counter

from bench.chaos.course import FAULTS
from bench.chaos.timeline import FIRST_S, GATEWAYS, KINDS, timeline


def test_the_same_seed_draws_the_same_faults_at_the_same_times() -> None:
    assert timeline(7, 60) == timeline(7, 60)
    assert timeline(7, 60) != timeline(8, 60)


def test_a_longer_run_begins_as_a_shorter_one_does() -> None:
    short = timeline(7, 20)
    assert timeline(7, 60)[: len(short)] == short


def test_every_fault_begins_while_there_is_load_and_lasts_as_long_as_its_kind_says() -> None:
    kinds = {kind.name: kind for kind in KINDS}
    faults = timeline(3, 120)
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
    for fault in faults:
        kind = kinds[fault.kind]
        assert FIRST_S <= fault.at_s < 120
        assert kind.lasts_s[0] <= fault.lasts_s <= kind.lasts_s[1]
        assert fault.target in kind.targets
        assert fault.part == kind.part.format(fault.target)
        assert 0 <= fault.roll < 1


def test_a_minute_meets_every_kind_and_both_gateways_or_nearly_so() -> None:
    for seed in range(20):
        faults = timeline(seed, 75)
        counts = Counter(fault.kind for fault in faults)
        assert len(counts) == len(KINDS), KINDS
        assert max(counts.values()) - min(counts.values()) <= 2
        assert {fault.target for fault in faults} == {"", *GATEWAYS}


def test_every_kind_can_be_inflicted_and_everything_that_can_be_is_a_kind() -> None:
    assert {kind.name for kind in KINDS} == FAULTS.keys()
    assert len({kind.name for kind in KINDS}) == len(KINDS)
