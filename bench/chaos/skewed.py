"""`python -m bench.chaos.skewed FILE gateway ARGUMENT...`: the gateway, on a wall clock that may jump.

FILE holds eight bytes, a float: the seconds by which the clock is wrong, now. Whoever writes another number there has
it jump. What is read by `time.time()` jumps; the monotonic clock does not, as on a machine whose clock is set.
"""

import mmap
import runpy
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

OFFSET = struct.Struct("<d")


def set_offset(path: Path, seconds: float) -> None:
    """Have the clock be wrong by so much."""
    if path.exists():
        with path.open("r+b") as file:
            file.write(OFFSET.pack(seconds))
    else:
        path.write_bytes(OFFSET.pack(seconds))


def skewed(path: Path, true: Callable[[], float]) -> Callable[[], float]:
    """The clock `true` with the error that the file says, whenever it is asked."""
    with path.open("rb") as file:
        error = mmap.mmap(file.fileno(), OFFSET.size, access=mmap.ACCESS_READ)

    def now() -> float:
        return true() + float(OFFSET.unpack(error[:])[0])

    return now


def main() -> None:
    """Change the clock before anything of the gateway is loaded, then become it."""
    path, module = Path(sys.argv[1]), sys.argv[2]
    time.time = skewed(path, time.time)
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
