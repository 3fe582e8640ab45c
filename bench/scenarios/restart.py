"""How long is the gateway away? From the start of its process to its first answers, with many open orders in Postgres
(`--orders`), and until every check that had come due meanwhile is taken up.

Two orders, one just created and one in the middle of being paid, are made over the API and then copied by SQL while
no gateway runs, their checks due from two minutes ago to half an hour from now: the sweep has its hands full while
the first requests come. The databases stay up in between, as production's would.
"""

import asyncio
import time
from contextlib import AbstractContextManager
from http.client import HTTPConnection

import asyncpg
import msgspec

from bench.channel_stub import channel_config, make_merchant
from bench.children import Child, child
from bench.scenarios.gateway_under_test import add_app, end_databases, write_config
from bench.scenarios.setting import BenchError, Findings, Row, Setting
from gateway.embedded import Postgres, Valkey

ANSWER_TIMEOUT_S = 10.0
CATCH_UP_MAX_S = 180.0
OVERDUE = "SELECT count(*) FROM orders WHERE next_check_at < now() - interval '5 seconds'"  # the sweep gives timers 2
# Whatever columns an order has, a copy has them too; only what must differ is named.
COPY_ORDERS = """
INSERT INTO orders SELECT (jsonb_populate_record(o, jsonb_build_object(
    'order_id', $2 || lpad(n::text, 21, '0'), 'out_order_no', $2 || n, 'buyer', $2 || n,
    'next_check_at', now() + interval '32 minutes' * n / $3::int - interval '2 minutes'))).*
FROM orders o, generate_series(1, $3::int) AS n WHERE o.order_id = $1
"""
COPY_ATTEMPTS = """
INSERT INTO attempts SELECT (jsonb_populate_record(a, jsonb_build_object(
    'attempt_id', $2 || lpad(n::text, 21, '0') || '01', 'order_id', $2 || lpad(n::text, 21, '0')))).*
FROM attempts a, generate_series(1, $3::int) AS n WHERE a.order_id = $1
"""
COPY_EVENTS = """
INSERT INTO events SELECT (jsonb_populate_record(e, jsonb_build_object('order_id', $2 || lpad(n::text, 21, '0')))).*
FROM events e, generate_series(1, $3::int) AS n WHERE e.order_id = $1
"""
CREATED, PAYING = "BENCH", "BENCP"  # how the copies' ids begin


class Away(msgspec.Struct, frozen=True):
    """Seconds from the start of the process."""

    serving_s: float
    read_s: float
    created_s: float
    overdue: int
    caught_up_s: float
    rss_mib: float


class App:
    """The app of the bench, one request at a time."""

    def __init__(self, gateway: Child, api_key: str) -> None:
        """Connect to a gateway as soon as it serves."""
        host, port = gateway.address()
        self._connection = HTTPConnection(host, port, timeout=ANSWER_TIMEOUT_S)
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}

    def ask(self, method: str, target: str, body: object = None) -> dict[str, object]:
        """The answer to one request.

        Raises:
            BenchError: it is not a success.
        """
        content = None if body is None else msgspec.json.encode(body)
        self._connection.request(method, target, content, self._headers)
        answer = self._connection.getresponse()
        read = answer.read()
        if answer.status not in (200, 201):
            raise BenchError(f"{method} {target}: {answer.status} {read[:500]!r}")
        return msgspec.json.decode(read, type=dict[str, object])

    def create(self, number: str) -> str:
        """Create an order and return its id."""
        order = {"out_order_no": number, "amount": 1999, "currency": "CNY", "subject": "A cup of tea", "buyer": number}
        return str(self.ask("POST", "/v1/orders", order)["order_id"])


def measure(setting: Setting) -> Findings:
    """A first life that makes the orders, then the start that is measured."""
    directory = setting.directory
    with child("payments", "bench.payments", str(directory), directory=directory) as stub:
        host, port = stub.address()
        write_config(directory, channel_config(make_merchant(directory), f"http://{host}:{port}"))
        away = asyncio.run(_two_lives(setting))
    remark = f"{setting.orders:,} open orders in Postgres; listening after {away.serving_s:.2f} s"
    return Findings(
        figures={
            "restart_read_s": round(away.read_s, 3),
            "restart_create_s": round(away.created_s, 3),
            "restart_overdue": away.overdue,
            "restart_caught_up_s": round(away.caught_up_s, 1),
            "restart_rss_mib": round(away.rss_mib),
        },
        rows=(
            Row("start to the first read answered", f"{away.read_s:.2f} s", remark),
            Row("start to the first create answered", f"{away.created_s:.2f} s"),
            Row(
                "start to no check overdue", f"{away.caught_up_s:.1f} s", f"{away.overdue:,} were overdue at the start"
            ),
            Row("memory then", f"{away.rss_mib:.0f} MiB", "resident"),
        ),
    )


async def _two_lives(setting: Setting) -> Away:
    try:
        async with Postgres(setting.directory) as postgres, Valkey(setting.directory):
            api_key, created, paying = await asyncio.to_thread(_first_life, setting)
            await _copy(postgres.url, created, paying, setting.orders)
            return await asyncio.to_thread(_second_life, setting, api_key, postgres.url)
    finally:
        await end_databases(setting.directory)


def _gateway(setting: Setting, name: str) -> AbstractContextManager[Child]:
    config = setting.directory / "holdfast.toml"
    return child(name, "gateway", "serve", "--config", str(config), directory=setting.directory)


def _first_life(setting: Setting) -> tuple[str, str, str]:
    """The app's key, an order left as created and one left paying."""
    with _gateway(setting, "gateway-1") as gateway:
        gateway.address()
        api_key = add_app(setting.directory / "holdfast.toml", "")
        app = App(gateway, api_key)
        created, paying = app.create("first"), app.create("second")
        app.ask("POST", f"/v1/orders/{paying}/pay", {"channel": "wechatpay", "method": "native"})
        return api_key, created, paying


async def _copy(url: str, created: str, paying: str, orders: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        for template, ids in ((created, CREATED), (paying, PAYING)):
            for copy in (COPY_ORDERS, COPY_ATTEMPTS, COPY_EVENTS):
                await connection.execute(copy, template, ids, orders // 2)
        await connection.execute("ANALYZE")
    finally:
        await connection.close()


def _second_life(setting: Setting, api_key: str, url: str) -> Away:
    overdue = asyncio.run(_overdue(url))
    with _gateway(setting, "gateway-2") as gateway:
        app = App(gateway, api_key)
        serving_s = time.monotonic() - gateway.started_at_s
        app.ask("GET", f"/v1/orders/{PAYING}{setting.orders // 4:021d}")
        read_s = time.monotonic() - gateway.started_at_s
        app.create("third")
        created_s = time.monotonic() - gateway.started_at_s
        while asyncio.run(_overdue(url)):
            if time.monotonic() - gateway.started_at_s > CATCH_UP_MAX_S:
                raise BenchError(f"checks are overdue still after {CATCH_UP_MAX_S:.0f} s")
            time.sleep(0.5)
        caught_up_s = time.monotonic() - gateway.started_at_s
        return Away(serving_s, read_s, created_s, overdue, caught_up_s, gateway.rss_mib())


async def _overdue(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(OVERDUE))
    finally:
        await connection.close()
