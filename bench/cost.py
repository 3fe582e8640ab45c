"""What a process has cost so far, as the kernel counts it: CPU seconds and resident bytes.

Throughput on a shared machine moves by tens of percent between two runs; CPU time a request hardly does.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


def cpu_s(pid: int) -> float:
    """User and system time of a process and of its children it has waited for; 0 when there is no such process."""
    with suppress(OSError):
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return sum(int(ticks) for ticks in fields[11:15]) / TICKS_PER_S
    return 0.0


def tree_cpu_s(pid: int) -> float:
    """The same of a process and everything below it."""
    return cpu_s(pid) + sum(tree_cpu_s(below) for below in _children(pid))


def resident_bytes(pid: int) -> int:
    """VmRSS of a process."""
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def _children(pid: int) -> Iterator[int]:
    with suppress(OSError):
        yield from (int(word) for word in (PROC / str(pid) / "task" / str(pid) / "children").read_text().split())
