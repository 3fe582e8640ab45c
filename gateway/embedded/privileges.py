"""How to run PostgreSQL from this account: it refuses root, and accounts without a name."""

import os
import pwd
import stat
import subprocess
import sys
from enum import StrEnum
from pathlib import Path

from gateway.embedded import launcher


class RunAs(StrEnum):
    """The ways `launcher.py` knows."""

    AS_IS = "as-is"
    NAMESPACE = "namespace"
    NOBODY = "nobody"

    @property
    def owner_uid(self) -> int:
        """Who, seen from here, must own the files of a program started this way."""
        return launcher.NOBODY if self is RunAs.NOBODY else os.geteuid()


def choose_run_as() -> RunAs:
    """As we are, if PostgreSQL takes that; else a user namespace; else, as root, the account nobody."""
    if os.geteuid() != 0 and _has_a_name(os.geteuid()):
        return RunAs.AS_IS
    probe = subprocess.run(launch(RunAs.NAMESPACE, ["/bin/true"]), capture_output=True, check=False, timeout=10)
    if probe.returncode == 0:
        return RunAs.NAMESPACE
    return RunAs.NOBODY if os.geteuid() == 0 else RunAs.AS_IS


def launch(run_as: RunAs, command: list[str], *, die_with_parent: bool = False) -> list[str]:
    """The command line that becomes `command`, run as said."""
    ending = "die-with-parent" if die_with_parent else "stay"
    return [sys.executable, "-I", "-S", launcher.__file__, run_as, ending, *command]


def closed_to_others(path: Path) -> Path | None:
    """The first directory on the way to `path` that the account nobody may not pass, if any."""
    for directory in reversed(path.parents):
        about = directory.stat()
        if about.st_uid != launcher.NOBODY and not about.st_mode & stat.S_IXOTH:
            return directory
    return None


def give(directory: Path, uid: int) -> None:
    """Make `directory` and all in it belong to `uid`; an earlier start may have run as another."""
    if directory.stat().st_uid == uid or os.geteuid() != 0:
        return
    for parent, _, files in os.walk(directory):
        for path in [parent, *(os.path.join(parent, file) for file in files)]:
            os.chown(path, uid, -1, follow_symlinks=False)


def _has_a_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
