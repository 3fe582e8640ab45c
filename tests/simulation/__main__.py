"""`./run simulate`: the real gateways in a simulated world, seed by seed, and the bugs planted to prove it.

./run simulate --seeds 300            many runs, on all cores
./run simulate --seed 17              one, with all that it found
./run simulate --mutants              is every planted bug found?
"""

import argparse
import json
import sys
import time

from tests.simulation import batch, sometimes
from tests.simulation.mutants import MUTANTS
from tests.simulation.world import Result


def main() -> int:
    """Run what was asked for; 0 if nothing is wrong."""
    options = _options()
    jobs = options.jobs or batch.cores()
    began_s = time.monotonic()
    if options.seed is not None and options.seeds is None:
        wanted, jobs = range(options.seed, options.seed + 1), 1
    else:
        first = options.seed or 0
        wanted = range(first, first + (options.seeds or 0))
    runs = batch.seeds(wanted, jobs, _tell_digest if options.digests else _tell_failed, options.plant)
    found = batch.mutants(sorted(MUTANTS), jobs, _tell_found) if options.mutants else []
    if not options.digests:
        _report(runs, found, time.monotonic() - began_s, whole=len(wanted) >= batch.VOID_BELOW)
    if options.seed is not None and options.seeds is None:
        for result in runs.failed:
            _tell_all(result)
    killed = sum(each.seed is not None for each in found)
    if options.json:
        print(json.dumps(_summary(runs, len(found), killed)))
    void = len(wanted) >= batch.VOID_BELOW and bool(runs.missed)
    return 1 if runs.violations or killed < len(found) or void else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run simulate", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seeds", type=int, help="how many runs")
    parser.add_argument("--seed", type=int, help="the first seed; alone: this one")
    parser.add_argument("--mutants", action="store_true", help="plant bugs; every one must be found")
    parser.add_argument("--plant", choices=sorted(MUTANTS), metavar="MUTANT", help="plant this bug into the runs")
    parser.add_argument("--digests", action="store_true", help="print what each run did, in a number")
    parser.add_argument("--jobs", type=int, help="processes; as many as cores")
    parser.add_argument("--json", action="store_true", help="end with a line of JSON")
    options = parser.parse_args()
    if options.seeds is None and options.seed is None and not options.mutants:
        options.seeds = 100
    return options


def _tell_failed(result: Result) -> None:
    if result.violations:
        print(f"seed {result.seed}: {len(result.violations)} violations; repeat: ./run simulate --seed {result.seed}")
        for violation in result.violations[: batch.SHOWN_MAX]:
            print(f"    {violation}")
        sys.stdout.flush()


def _tell_digest(result: Result) -> None:
    print(f"seed {result.seed}: digest {result.digest:016x}, {result.steps} steps, {result.simulated_s:.6f} s")


def _tell_all(result: Result) -> None:
    for violation in result.violations:
        print(f"    {violation}")


def _tell_found(found: batch.Found) -> None:
    said = f"seed {found.seed}: {found.violation[:90]}" if found.seed is not None else "NOT FOUND"
    print(f"{found.name:32} {said}", flush=True)


def _report(runs: batch.Batch, found: list[batch.Found], took_s: float, *, whole: bool) -> None:
    if runs.runs:
        rate, factor = 3600 * runs.runs / runs.cpu_s, runs.simulated_s / runs.cpu_s
        print(f"{runs.runs} runs, {runs.violations} violations, {runs.kills} kills, {runs.simulated_s / 3600:.1f} h")
        print(f"{took_s:.0f} s; {rate:,.0f} runs an hour and core, {factor:,.0f} times real time")
        print("sometimes: " + ", ".join(f"{name} {runs.counts[name]}" for name in sometimes.EXPECTED))
        if whole and runs.missed:
            print(f"VOID: never reached: {', '.join(runs.missed)}")
    if found:
        lost = [each.name for each in found if each.seed is None]
        print(f"{len(found)} mutants, {len(found) - len(lost)} found" + (f", NOT {', '.join(lost)}" if lost else ""))


def _summary(runs: batch.Batch, planted: int, killed: int) -> dict[str, object]:
    return {
        "runs": runs.runs,
        "violations": runs.violations,
        "kills": runs.kills,
        "sometimes": {name: runs.counts[name] for name in sometimes.EXPECTED},
        "mutants": planted,
        "killed": killed,
    }


if __name__ == "__main__":
    sys.exit(main())
