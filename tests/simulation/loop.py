"""A seeded asyncio loop in virtual time: a whole fleet in one thread, without sockets, threads or a wall clock.

Time jumps to the next timer when nothing is ready. Steps of tasks that are ready together are shuffled by the seed;
plain callbacks keep their order, as asyncio promises. Every handle belongs to a simulated process (a context variable
says to which), so a process can be killed: its handles are dropped, nothing of it ever runs again, no `finally`, no
cancellation. Its tasks are kept in a graveyard, because collecting them would run what a power cut does not run.

The stock loop and not uvloop, which has no turn in Python that could be replaced.
"""

import asyncio
import contextvars
import gc
import heapq
import random
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, Final

PROCESS: contextvars.ContextVar[str] = contextvars.ContextVar("process", default="world")

STEPS_AT_ONCE_MAX: Final = 50_000  # at one moment; more is a livelock
STEPS_MAX: Final = 500_000


class Deadlock(RuntimeError):
    """Nothing is ready and no timer is armed: somebody waits for what nobody will do."""


class Livelock(RuntimeError):
    """Steps without end, at one moment or altogether."""


class SimulatedTask(asyncio.Task[Any]):
    """A task that knows when it was made, compared to others, and which process it belongs to."""

    serial = 0
    process = ""


class SimulatedLoop(asyncio.BaseEventLoop):
    """One loop for all processes of one run. `digest` is the same whenever the same seed took the same steps."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.chance = random.Random(f"loop {seed}")
        self.findings: list[str] = []
        self.steps = 0
        self.digest = 0
        self.ended = False
        self._now = 0.0
        self._steps_now = 0
        self._tasks_made = 0
        self._dead: set[str] = set()
        self._paused: dict[str, list[asyncio.Handle]] = {}
        self._graveyard: list[object] = []
        self.set_exception_handler(self._note)
        self.set_task_factory(self._make_task)

    # --- time and what does not exist here ------------------------------------------------------------------------

    def time(self) -> float:
        """Seconds since the run began."""
        return self._now

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        """As the stock loop, without its checks for threads that do not exist here."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        """At once: a thread could not be replayed."""
        future = self.create_future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _process_events(self, event_list: Any) -> None:
        raise AssertionError("no input or output exists in a simulation")

    def _write_to_self(self) -> None:
        raise AssertionError("a thread reached into a simulation")

    # --- processes ------------------------------------------------------------------------------------------------

    def spawn(self, process: str, work: Coroutine[Any, Any, Any], name: str | None = None) -> "asyncio.Task[Any]":
        """Run something as a task of a process, whoever asks for it."""
        context = contextvars.Context()
        context.run(PROCESS.set, process)
        return self.create_task(work, name=name, context=context)

    def kill(self, process: str) -> None:
        """SIGKILL. The name is never used again: what comes up in its place is another process."""
        self._dead.add(process)
        self._graveyard.extend(self._paused.pop(process, ()))
        self._graveyard.extend(self._tasks_of(process))

    def pause(self, process: str) -> None:
        """SIGSTOP: whatever becomes ready waits."""
        self._paused.setdefault(process, [])

    def resume(self, process: str) -> None:
        """SIGCONT: what waited goes on as if nothing had happened, late."""
        self._ready.extend(self._paused.pop(process, ()))

    def is_dead(self, process: str) -> bool:
        """Whether it was killed."""
        return process in self._dead

    def _tasks_of(self, process: str) -> list[SimulatedTask]:
        tasks = [task for task in asyncio.all_tasks(self) if isinstance(task, SimulatedTask)]
        return [task for task in tasks if task.process == process]

    # --- turns ----------------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        timers = self._scheduled
        while timers and timers[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(timers)._scheduled = False
        if not self._ready and not self._stopping:
            if not timers:
                raise Deadlock(f"at {self._now:.3f} s")
            if timers[0]._when > self._now:
                self._now = timers[0]._when
                self._steps_now = 0
        while timers and timers[0]._when <= self._now:
            handle = heapq.heappop(timers)
            handle._scheduled = False
            self._ready.append(handle)
        ready = self._ready
        if len(ready) == 1:
            handle = ready.popleft()
            if not handle._cancelled:
                self._step(handle)
            return
        batch = [handle for handle in ready if not handle._cancelled]
        ready.clear()
        for handle in self._shuffled(batch):
            if not handle._cancelled:
                self._step(handle)

    def _step(self, handle: asyncio.Handle) -> None:
        process = handle._context.get(PROCESS, "world")  # type: ignore[attr-defined]
        if process in self._dead:
            self._graveyard.append(handle)
            return
        if process in self._paused:
            self._paused[process].append(handle)
            return
        self.steps += 1
        self._steps_now += 1
        if self._steps_now > STEPS_AT_ONCE_MAX or self.steps > STEPS_MAX:
            self._livelock()
        owner = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
        self.digest = hash((self.digest, getattr(owner, "serial", 0), self._now))
        handle._run()

    def _livelock(self) -> None:
        self._steps_now = self.steps = 0
        raise Livelock(f"without end, at {self._now:.3f} s")

    def _shuffled(self, batch: list[asyncio.Handle]) -> Iterator[asyncio.Handle]:
        """Tasks in an order of their own beside the plain callbacks, which stay first come, first served.

        Tasks are sorted by age first: what a set was iterated in (addresses) must not show.
        """
        plain: list[asyncio.Handle] = []
        steps: list[tuple[int, int, asyncio.Handle]] = []
        for place, handle in enumerate(batch):
            owner = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
            if isinstance(owner, SimulatedTask):
                steps.append((owner.serial, place, handle))
            else:
                plain.append(handle)
        steps.sort(key=lambda step: step[:2])
        self.chance.shuffle(steps)
        plain.reverse()
        while steps or plain:
            if plain and (not steps or self.chance.random() * (len(plain) + len(steps)) < len(plain)):
                yield plain.pop()
            else:
                yield steps.pop()[2]

    def _make_task(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> SimulatedTask:
        task = SimulatedTask(work, loop=loop, **options)
        self._tasks_made += 1
        task.serial = self._tasks_made
        context = options.get("context")
        task.process = PROCESS.get() if context is None else context.get(PROCESS, "world")
        return task

    # --- findings and the end -------------------------------------------------------------------------------------

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody caught. What the dead leave behind says nothing."""
        task = context.get("task") or context.get("future")
        handle = context.get("handle")
        inside = PROCESS.get() if handle is None else handle._context.get(PROCESS, "world")
        if self.ended or getattr(task, "process", "") in self._dead or inside in self._dead:
            return
        error = context.get("exception")
        self.findings.append(f"{context.get('message')}: {type(error).__name__}: {error} {task!r}"[:600])

    def end(self) -> None:
        """Let go of all tasks without running anything of them that could still do something."""
        self.ended = True
        self.call_soon = self._take_nothing  # type: ignore[method-assign]
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None  # generators that would rather go on
        tasks = [task for task in asyncio.all_tasks(self) if isinstance(task, SimulatedTask)]
        for task in sorted(tasks, key=lambda task: task.serial):
            task._log_destroy_pending = False
            coroutine = task.get_coro()
            with suppress(Exception):  # a `finally` that wanted the loop back
                coroutine.close()  # type: ignore[union-attr]
        self._ready.clear()
        self._scheduled.clear()
        self._graveyard.clear()
        self._paused.clear()
        self.close()
        gc.collect()
        sys.unraisablehook = hook

    def _take_nothing(self, *_args: Any, **_options: Any) -> asyncio.Handle:
        return asyncio.Handle(lambda: None, (), self)


def run(main: Coroutine[Any, Any, Any], loop: SimulatedLoop) -> Any:
    """Run a coroutine to its end on a loop that is good for this once."""
    try:
        return loop.run_until_complete(main)
    finally:
        loop.end()
