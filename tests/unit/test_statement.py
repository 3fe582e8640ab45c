"""The one statement: what a batch needs and nothing else, every parameter in its place."""

import re

import pytest

from gateway.storage.statement import columns, sections, statement


@pytest.mark.parametrize(
    "names",
    [{"births"}, {"moves"}, {"arrivals"}, {"births", "moves", "attempts", "payments", "cases", "outbox", "arrivals"}],
)
def test_parameters_are_numbered_without_gap_in_the_order_of_the_columns(names: set[str]) -> None:
    made = statement(frozenset(names))
    numbers = {int(number) for number in re.findall(r"\$(\d+)::", made.sql)}
    assert numbers == set(range(1, sum(map(len, made.columns.values())) + 1))
    assert set(made.columns) == names


def test_births_bring_what_lives_on_them_and_moves_theirs() -> None:
    births, moves = statement(frozenset({"births"})).sql, statement(frozenset({"moves"})).sql
    assert all(f"{name} AS (" in births for name in ("claimed", "born", "born_events"))
    assert all(f"{name} AS (" in moves for name in ("moved", "moved_events"))
    assert "moved" not in births
    assert "INSERT INTO orders" not in moves


def test_everything_beside_the_order_waits_for_the_order_to_be_applied() -> None:
    for name in ("attempts", "payments", "cases", "outbox"):
        assert "JOIN applied" in sections()[name]
    assert "applied" not in sections()["arrivals"], "that a notification came is kept in any case"


def test_a_column_that_is_used_twice_is_one_parameter() -> None:
    assert all(len(set(columns(name))) == len(columns(name)) for name in sections())
