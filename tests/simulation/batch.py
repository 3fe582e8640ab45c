"""Many runs: spread over processes, added up, and reported."""

import gc
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from tests.simulation import determinism, sometimes
from tests.simulation.mutants import MUTANTS
from tests.simulation.world import Result, simulate

T = TypeVar("T")

SHOWN_MAX: Final = 5  # violations of one seed
MUTANT_SEEDS: Final = 50
VOID_BELOW: Final = 300  # seeds: a batch of so many must have reached every rare path


class Batch(msgspec.Struct):
    """What many seeds came to."""

    runs: int = 0
    violations: int = 0
    kills: int = 0
    simulated_s: float = 0.0
    cpu_s: float = 0.0
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    failed: list[Result] = []

    def add(self, result: Result) -> None:
        """Count a run in."""
        self.runs += 1
        self.violations += len(result.violations)
        self.kills += result.kills
        self.simulated_s += result.simulated_s
        self.cpu_s += result.cpu_s
        self.counts.update(result.counts)
        if result.violations:
            self.failed.append(result)

    @property
    def missed(self) -> list[str]:
        """Rare paths that were never reached."""
        return [name for name in sometimes.EXPECTED if not self.counts[name]]


class Found(msgspec.Struct):
    """Whether a mutant was found, by which seed, and as what."""

    name: str
    seed: int | None
    violation: str = ""


def seeds(
    wanted: Sequence[int], jobs: int, tell: Callable[[Result], None] = lambda _: None, plant: str | None = None
) -> Batch:
    """Run these seeds, with a bug planted if one is named."""
    batch = Batch()
    for result in _spread(run_seed if plant is None else partial(run_planted, plant), wanted, jobs):
        batch.add(result)
        tell(result)
    return batch


def mutants(names: Sequence[str], jobs: int, tell: Callable[[Found], None] = lambda _: None) -> list[Found]:
    """Look for each of these mutants until a seed finds it."""
    found = []
    for each in _spread(find_mutant, names, jobs):
        found.append(each)
        tell(each)
    return found


def run_seed(seed: int) -> Result:
    """One run, timed."""
    began_s = time.process_time()
    result = simulate(seed)
    return msgspec.structs.replace(result, cpu_s=time.process_time() - began_s)


def run_planted(name: str, seed: int) -> Result:
    """One run with a bug in it."""
    with MUTANTS[name].plant():
        return run_seed(seed)


def find_mutant(name: str) -> Found:
    """Plant a mutant and run seeds until one finds it."""
    for seed in range(MUTANT_SEEDS):
        result = run_planted(name, seed)
        if result.violations:
            return Found(name, seed, result.violations[0])
    return Found(name, None)


def settle() -> None:
    """What a process needs once: the doors of time and chance, and a collector that leaves runs alone."""
    determinism.install()
    gc.collect()
    gc.freeze()
    gc.disable()  # runs are collected when they are over


def cores() -> int:
    """How many there are for us."""
    return len(os.sched_getaffinity(0))


def _spread(work: Callable[[Any], T], items: Sequence[Any], jobs: int) -> Iterator[T]:
    if jobs == 1:
        settle()
        yield from map(work, items)
        return
    # Spawned, not forked: every process begins with the same memory, so that a seed does the same in each.
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, initializer=settle) as pool:
        yield from pool.imap_unordered(work, items, chunksize=1)
