"""Ids sort by time, have the shape the schema demands, and do not repeat."""

import re

from gateway.ids import notification_id, order_id


def test_order_ids_have_their_shape_and_sort_by_time() -> None:
    made = [order_id(1_795_000_000_000 + at_ms) for at_ms in range(3000)]
    assert all(re.fullmatch(r"[0-9A-Z]{26}", one) for one in made)
    assert made == sorted(made)


def test_ids_of_one_millisecond_differ() -> None:
    assert len({order_id(1_795_000_000_000) for _ in range(10_000)}) == 10_000
    assert len({notification_id(1_795_000_000_000) for _ in range(1000)}) > 990


def test_notification_ids_fit_a_bigint_and_sort_by_time() -> None:
    made = [notification_id(1_795_000_000_000 + at_ms) for at_ms in range(100)]
    assert made == sorted(made)
    assert 0 < made[0] < made[-1] < 2**63
