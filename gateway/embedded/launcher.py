"""Becomes another program, after giving up what PostgreSQL refuses to run with. Standard library only; run as a script.

    python -I -S launcher.py (as-is | namespace | nobody) (stay | die-with-parent) PROGRAM ARGUMENT...

`namespace`: a user namespace in which we are uid 65534. The files stay ours, nothing on the host changes.
`nobody`: really become uid 65534; what the program writes to must belong to it.
It exits with 125 when the machine refuses the way that was asked for.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

NOBODY = 65534
REFUSED = 125
CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1


def main() -> None:
    how, ending, program = sys.argv[1:4]
    parent = os.getppid()
    try:
        {"as-is": lambda: None, "namespace": enter_namespace, "nobody": become_nobody}[how]()
    except OSError as error:
        sys.stderr.write(f"cannot run {program} as {how}: {error}\n")
        sys.exit(REFUSED)
    if ending == "die-with-parent":
        die_with(parent)
    os.execv(program, sys.argv[3:])  # noqa: S606 - to become the program is the point


def enter_namespace() -> None:
    """Map uid and gid 65534 inside to our own outside."""
    uid, gid = os.geteuid(), os.getegid()
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "user namespaces are refused")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} {gid} 1")


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def die_with(parent: int) -> None:
    """Ask for SIGINT (a fast shutdown) when the parent dies; other systems than Linux can't, there we stay."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
