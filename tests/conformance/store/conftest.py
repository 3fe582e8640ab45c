"""Every test of this folder runs twice: on PostgreSQL and on the simulated store."""

from collections.abc import AsyncIterator

import pytest

from tests.conformance.store.stores import Store, real, simulated


@pytest.fixture(params=["postgres", "simulated"])
def address(request: pytest.FixtureRequest) -> str | None:
    """Where PostgreSQL is; None stands for the simulated store."""
    url: str | None = request.getfixturevalue("database_url") if request.param == "postgres" else None
    return url


@pytest.fixture
async def store(address: str | None) -> AsyncIterator[Store]:
    """The one, then the other."""
    async with simulated() if address is None else real(address) as opened:
        yield opened
