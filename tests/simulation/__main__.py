"""`./run simulate`."""

import sys
import time

import tests.simulation.world as world
from tests.simulation import determinism

determinism.install()

if __name__ == "__main__":
    first, last = int(sys.argv[1]), int(sys.argv[2])
    for seed in range(first, last):
        began = time.time()
        result = world.simulate(seed)
        took = time.time() - began
        print(seed, f"{took:.2f}s", f"{result.simulated_s:.0f}s", result.steps, f"{result.digest:x}", result.kills, len(result.violations))
        for each in result.violations[:6]:
            print("    ", each.replace("\n", " ")[:220])
        world.collect()
