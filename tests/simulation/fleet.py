"""The gateways of a run: the real composition root in simulated processes that are killed, paused and started again."""

import asyncio
import base64
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final, cast
from unittest import mock

import aiohttp
from aiohttp import HttpVersion11
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

import gateway.app
import gateway.inbox
import gateway.storage.cases
import gateway.storage.endpoints
import gateway.unanswered
from gateway import probe
from gateway.api.door import door
from gateway.api.routing import Call, Router
from gateway.app import Gateway, Reached
from gateway.clock import DatabaseClock
from gateway.config import Config, Secret
from gateway.config.sections import Channels, Checks, Limits, Orders, Security, Server, Sweep, Webhooks
from gateway.effect_runner import InstalledChannel
from gateway.metrics import Metrics
from gateway.stepping import Stepper
from gateway.storage.apps import Apps
from gateway.webhooks.delivery import Delivery
from tests.simulation import keys
from tests.simulation.history import History
from tests.simulation.loop import PROCESS, SimulatedLoop
from tests.simulation.network import Network, Silence
from tests.simulation.platforms import Platforms, SimulatedTransport

PUBLIC_URL: Final = "https://pay.test"
MASTER_KEY: Final = base64.b64encode(bytes(range(32))).decode()
RESTART_AGAIN_S: Final = 1.0
STOP_WITHIN_S: Final = 8.0
CLAIM_EVERY_S: Final = 4.0  # of webhooks: looking in vain every second is a quarter of a run's cost
LOOK_EVERY_S: Final = 10.0  # for parked notifications, changed endpoints, channels that are back
WATCH_LOOP_EVERY_S: Final = 60.0  # the figure of a lag that does not exist here
TRANSPORT_TIMEOUT_S: Final = 5.0


class PowerCut(BaseException):
    """Ends the step in which a process was killed; nothing of that process comes after it."""


class Answer:
    """An HTTP answer as its bytes."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.body = body


def configuration(limits: Limits, sweep: Sweep) -> Config:
    """What all gateways of a run are given: the recipe's quick ladder, and slow ladders cut short."""
    return Config(
        server=Server(public_url=PUBLIC_URL, drain_s=5.0),
        security=Security(master_key=Secret(MASTER_KEY)),
        limits=limits,
        orders=Orders(expires_in_s=90.0),
        checks=Checks(
            slow_queries_s=(30.0,),
            closing_s=(5.0, 10.0, 20.0, 30.0),
            watch_s=(15.0, 45.0, 90.0),
            exception_s=(30.0,) * 40,
            refund_s=(5.0, 10.0, 20.0, 30.0),
            not_found_final_s=30.0,
        ),
        sweep=sweep,
        webhooks=Webhooks(schedule_s=(0.0, 5.0, 10.0, 15.0, 20.0, *(30.0,) * 40), timeout_s=5.0),
        channels=Channels(),
    )


class SimulatedGateway(Gateway):
    """One gateway process: all parts are real but for what they touch of the world."""

    def __init__(self, config: Config, world: "Surroundings") -> None:
        super().__init__(config, installer=self._installed)
        self._world = world
        self._router: Router | None = None
        self._handlers: set[asyncio.Task[Any]] = set()
        self.metrics: Metrics | None = None

    async def _reach_databases(self) -> Reached:
        database = self._world.database
        return Reached(database.pool(), database.connect, "redis://simulated")

    def _webhook_session(self) -> aiohttp.ClientSession:
        return cast(aiohttp.ClientSession, WebhookSession(self._world))

    async def _start_delivery(self, pool: Any, apps: Apps, metrics: Metrics, clock: DatabaseClock) -> Delivery:
        delivery = await super()._start_delivery(pool, apps, metrics, clock)
        delivery._claim_every_s = CLAIM_EVERY_S
        return delivery

    async def _serve(self, router: Router) -> None:
        self._router = router
        self.url = PUBLIC_URL
        self._stack.push_async_callback(self._drain)

    async def _drain(self) -> None:
        """As the server does when it is cleaned up: wait for the handlers, for a while."""
        if self._handlers:
            _, late = await asyncio.wait(self._handlers, timeout=self._config.server.drain_s)
            for handler in late:
                handler.cancel()

    def _installed(
        self, _channels: Channels, metrics: Metrics, stepper: Stepper, clock: Callable[[], float]
    ) -> dict[str, InstalledChannel]:
        self.metrics = metrics
        installed = {}
        for name, channel in keys.make_channels().items():
            transport = SimulatedTransport(
                name,
                keys.URL,
                timeout_s=TRANSPORT_TIMEOUT_S,
                concurrency=8,
                queue_max=100,
                metrics=metrics,
                stepper=stepper,
                clock=clock,
            )
            transport.network, transport.platforms = self._world.network, self._world.platforms
            installed[name] = InstalledChannel(channel, transport)
        return installed

    async def serve(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """A request, from behind the HTTP parser to before it is written."""
        assert self._router is not None
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        try:
            response = await door(_call(method, target, headers, body), self._router)
        finally:
            self._handlers.discard(handler)
        content = response.body
        return Answer(response.status, content if isinstance(content, bytes) else b"")


class Surroundings:
    """What a gateway finds around itself."""

    def __init__(
        self, loop: SimulatedLoop, database: Any, network: Network, platforms: Platforms, history: History, told: Any
    ) -> None:
        self.loop = loop
        self.database = database
        self.network = network
        self.platforms = platforms
        self.history = history
        self.told = told  # an app's endpoint: url, headers, body -> status


class Slot:
    """A place where one gateway after another runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.incarnation = 0
        self.process = ""
        self.gateway: SimulatedGateway | None = None
        self.died: asyncio.Future[None] | None = None
        self.down_s = 1.0


class Fleet:
    """Keeps a gateway running in every slot, whatever happens to it."""

    def __init__(self, config: Config, surroundings: Surroundings, names: tuple[str, ...] = ("east", "west")) -> None:
        self._config = config
        self._around = surroundings
        self._loop = surroundings.loop
        self.slots = {name: Slot(name) for name in names}
        self.metrics: list[Metrics] = []
        self.kills = 0
        self.cut_off: Callable[[str], bool] = lambda _probe: False  # whether passing this probe kills the process

    def start(self) -> None:
        """Start them all."""
        for slot in self.slots.values():
            self._loop.spawn("world", self._keep(slot), name=f"keep {slot.name}")

    def serving(self) -> list[str]:
        """The slots whose gateway takes requests."""
        return [name for name, slot in self.slots.items() if slot.gateway is not None]

    def all_serve(self) -> bool:
        """Whether no gateway is down."""
        return len(self.serving()) == len(self.slots)

    async def serve(
        self,
        name: str,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        seen: Callable[[Answer], None] = lambda _answer: None,
        **call: Any,
    ) -> Answer:
        """Send a request to the gateway of a slot; `seen` is shown the answer before it is on its way.

        Raises:
            Silence: no answer.
        """
        slot = self.slots[name]
        serving = slot.gateway
        if serving is None:
            await asyncio.sleep(0.002)
            raise Silence("connection refused", sent=False)

        async def serve() -> Answer:
            answer = await serving.serve(method, target, headers, body)
            seen(answer)
            return answer

        return await self._around.network.call(slot.process, serve, **call)

    def kill(self, name: str, down_s: float) -> None:
        """SIGKILL; it is started again after `down_s`."""
        slot = self.slots[name]
        if slot.died is None or slot.died.done():
            return
        self.kills += 1
        slot.down_s = down_s
        self._loop.kill(slot.process)
        self._around.network.broken(slot.process)
        slot.gateway = None
        slot.died.set_result(None)

    async def pause(self, name: str, pause_s: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        process = self.slots[name].process
        self._loop.pause(process)
        await asyncio.sleep(pause_s)
        self._loop.resume(process)

    def wake(self) -> None:
        """SIGCONT to whoever sleeps."""
        for slot in self.slots.values():
            self._loop.resume(slot.process)

    async def stop(self, name: str, down_s: float) -> None:
        """SIGTERM, and SIGKILL if it takes too long."""
        slot = self.slots[name]
        serving, process = slot.gateway, slot.process
        if serving is None:
            return
        slot.gateway = None
        stopping = self._loop.spawn(process, serving.stop(), name=f"stop {process}")
        await asyncio.wait({stopping}, timeout=STOP_WITHIN_S)
        if stopping.done() and stopping.exception() is not None:
            raise RuntimeError("a gateway did not stop cleanly") from stopping.exception()
        if slot.process == process:
            self._around.history.count("stopped" if stopping.done() else "stop cut off")
            self.kill(name, down_s)

    def on_probe(self, name: str, _passes: Any) -> None:
        """Passing a crash point: perhaps the last thing this process does."""
        self._around.history.count(f"probe {name}")
        slot = next((slot for slot in self.slots.values() if slot.process == PROCESS.get()), None)
        if slot is not None and slot.gateway is not None and self.cut_off(name):
            self._around.history.count(f"killed at {name}")
            self.kill(slot.name, 0.5)
            raise PowerCut(name)

    def armed(self) -> Any:
        """Have the crash points lead here, for a `with` statement."""
        patches = contextlib.ExitStack()
        patches.enter_context(mock.patch.multiple(probe, _passes_left={}, _pass=self.on_probe))
        patches.enter_context(mock.patch.object(gateway.app, "LOOP_LAG_EVERY_S", WATCH_LOOP_EVERY_S))
        patches.enter_context(mock.patch.object(gateway.inbox, "LOOK_EVERY_S", LOOK_EVERY_S))
        patches.enter_context(mock.patch.object(gateway.unanswered, "LOOK_EVERY_S", LOOK_EVERY_S))
        patches.enter_context(mock.patch.object(gateway.storage.endpoints, "READ_EVERY_S", LOOK_EVERY_S))
        patches.enter_context(mock.patch.object(gateway.storage.cases, "COUNT_EVERY_S", WATCH_LOOP_EVERY_S))
        return patches

    async def _keep(self, slot: Slot) -> None:
        while True:
            slot.incarnation += 1
            slot.process = f"{slot.name}.{slot.incarnation}"
            slot.died = self._loop.create_future()
            new = SimulatedGateway(self._config, self._around)
            starting = self._loop.spawn(slot.process, new.start(), name=f"start {slot.process}")
            await asyncio.wait({starting, slot.died}, return_when=asyncio.FIRST_COMPLETED)
            if not slot.died.done() and starting.exception() is None:
                slot.gateway = new
                if new.metrics is not None:
                    self.metrics.append(new.metrics)
                await slot.died
                await asyncio.sleep(slot.down_s)
            elif not slot.died.done():  # it could not start: the database is away
                self._loop.kill(slot.process)
                self._around.history.count("did not start")
                await asyncio.sleep(RESTART_AGAIN_S)
            else:
                await asyncio.sleep(slot.down_s)


# --- a request without a socket ---------------------------------------------------------------------------------------


class _Body:
    """A body that is there as a whole."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def is_eof(self) -> bool:
        return True

    def set_read_chunk_size(self, _size: int) -> None:
        return None

    async def readany(self) -> bytes:
        content, self._content = self._content, b""
        return content


class _Connection:
    ssl_context = None
    peername = ("192.0.2.1", 1)
    sockname = ("192.0.2.2", 443)
    transport = None


def _call(method: str, target: str, headers: Mapping[str, str], body: bytes) -> Call:
    named = CIMultiDictProxy(CIMultiDict({"Host": "pay.test", **headers}))
    message = RawRequestMessage(
        method, target, HttpVersion11, named, (), False, None, False, False, URL(target, encoded=True)
    )
    loop = asyncio.get_running_loop()
    nobody: Any = None
    return Call(message, cast(Any, _Body(body)), cast(Any, _Connection()), nobody, nobody, loop, client_max_size=65536)


# --- webhooks on their way --------------------------------------------------------------------------------------------


class WebhookSession:
    """What `Delivery` uses of an aiohttp session, over the simulated network."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self.closed = False

    def post(self, url: str, *, data: bytes, headers: Mapping[str, str], allow_redirects: bool) -> "_Post":
        """As aiohttp's: entered, it sends."""
        assert not allow_redirects, "webhooks are never redirected"
        return _Post(self._world, url, data, headers)

    async def close(self) -> None:
        """Nothing to close."""
        self.closed = True


class _Post:
    """One try. It is its own answer."""

    headers: Mapping[str, str] = {}
    status = 0

    def __init__(self, world: Surroundings, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        self._world = world
        self._sent = (url, headers, body)
        self.content = self

    def at_eof(self) -> bool:
        return True

    async def __aenter__(self) -> "_Post":
        url, headers, body = self._sent
        host = URL(url).host or ""
        self._world.told.about_to_send(url, headers, body)
        try:
            self.status = await self._world.network.call(
                host, lambda: self._world.told.receive(url, headers, body), timeout_s=5.0
            )
        except Silence as silence:
            if str(silence) == "timeout":
                raise TimeoutError from None
            raise aiohttp.ClientConnectionError(str(silence)) from None
        return self

    async def __aexit__(self, *_: object) -> None:
        return None
