"""Environments of the peers, one each under `.venv-peers`: two of them install the same module name, none is ours.

What goes in is pinned with hashes (`requirements-*.txt`, `npm/package-lock.json`), without the address of any index. A
stamp, written last, says what is in: a second run installs nothing, a killed set-up is done again.

To move a pin: `uv pip compile --universal --generate-hashes --no-emit-index-url --no-header`, and for npm
`npm install --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved` in `npm/`.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
HOME: Final = HERE.parents[2] / ".venv-peers"
INSTALL_WITHIN_S: Final = 600.0
NODE_MIN: Final = (20, 18)  # alipay-sdk's HTTP client asks for it

# An environment's requirement files, installed in this order. python-alipay-sdk comes as source only: what builds it is
# pinned as well, and pip builds it with that instead of whatever the day offers.
PYTHON: Final = {
    "wechatpayv3": ("requirements-wechatpayv3.txt",),
    "python-alipay-sdk": ("requirements-building.txt", "requirements-python-alipay-sdk.txt"),
    "alipay-sdk-python": ("requirements-alipay-sdk-python.txt",),
}
NPM: Final = "npm"
NODE_MODULES: Final = HOME / NPM / "node_modules"


class Unavailable(Exception):
    """This machine lacks something that a peer needs; the text says what."""


class NotInstalled(Exception):
    """An installation failed; the text is what the installer said."""


def python(name: str) -> list[str]:
    """The command that runs a script with this peer, made first if it must be."""
    with _to_be_made(name, [HERE / file for file in PYTHON[name]], sys.version) as home:
        if home is not None:
            _say(f"installing {name} into .venv-peers ... ")
            _install_python(home, PYTHON[name])
    # -E -s: neither our packages nor the person's own may be found there. The folder of the script is.
    return [str(HOME / name / "bin" / "python"), "-E", "-s"]


def openssl() -> list[str]:
    """The command that runs a script which needs nothing but openssl.

    Raises:
        Unavailable: it is not installed.
    """
    if shutil.which("openssl") is None:
        raise Unavailable("openssl is not installed")
    return [sys.executable, "-E", "-s", "-S"]


def node() -> list[str]:
    """The command that runs a script with the npm peers, which stand in `NODE_MODULES`.

    Raises:
        Unavailable: no node here, or one too old.
    """
    version = _node_version()
    with _to_be_made(NPM, [HERE / NPM / "package.json", HERE / NPM / "package-lock.json"], version) as home:
        if home is not None:
            _say("installing the npm peers into .venv-peers ... ")
            _install_npm(home)
    return ["node"]


def _node_version() -> str:
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Unavailable("node and npm are not installed")
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    numbers = said.removeprefix("v").split(".")
    if len(numbers) != 3 or not all(n.isdigit() for n in numbers[:2]) or tuple(map(int, numbers[:2])) < NODE_MIN:
        raise Unavailable(f"node {said or '?'} is older than {'.'.join(map(str, NODE_MIN))}")
    return said


@contextmanager
def _to_be_made(name: str, sources: list[Path], made_with: str) -> Iterator[Path | None]:
    """The folder to make, or None if it stands there already. Of several runs one makes it, the others wait."""
    home, stamp = HOME / name, HOME / f"{name}.sha256"
    wanted = hashlib.sha256(
        b"\0".join([f"{home} {made_with}".encode(), *(path.read_bytes() for path in sources)])
    ).hexdigest()
    HOME.mkdir(exist_ok=True)
    with (HOME / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted and home.exists():
            yield None
            return
        started = time.monotonic()
        stamp.unlink(missing_ok=True)
        shutil.rmtree(home, ignore_errors=True)
        yield home
        stamp.write_text(wanted)
        _say(f"ready in {time.monotonic() - started:.0f} s\n")


def _install_python(home: Path, files: tuple[str, ...]) -> None:
    _command(sys.executable, "-m", "venv", home)
    for file in files:
        quiet = ("--quiet", "--disable-pip-version-check", "--no-input", "--no-warn-script-location")
        # --no-compile: alipay-sdk-python has thirty thousand files, of which a run imports fifty.
        exact = ("--require-hashes", "--no-deps", "--no-build-isolation", "--no-compile")
        _command(home / "bin" / "python", "-m", "pip", "install", *quiet, *exact, "--requirement", HERE / file)


def _install_npm(home: Path) -> None:
    home.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / NPM / name, home)
    _command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=home)


def _command(*words: object, cwd: Path | None = None) -> None:
    """Run an installer; what it says is shown only if it fails."""
    argv = [str(word) for word in words]
    try:
        subprocess.run(
            argv,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_WITHIN_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise NotInstalled(f"{' '.join(argv)}\n{error.stdout[-3000:]}") from error
    except (subprocess.TimeoutExpired, OSError) as error:
        raise NotInstalled(f"{' '.join(argv)}: {error}") from error


def _say(text: str) -> None:
    """On stderr: stdout belongs to the checks."""
    sys.stderr.write(text)
    sys.stderr.flush()
