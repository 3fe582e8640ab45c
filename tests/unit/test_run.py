"""`./run` in checkouts of its own: what it installs, when, and what it becomes. And what the image installs."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

CHECKOUT = Path(__file__).resolve().parents[2]

# Stands in for uv: notes the call, and makes a "Python" that tells how it was started.
UV = """#!/bin/sh
echo "$1 $2" >> "$UV_CALLS"
test -z "$UV_FAILS" || exit 1
test "$1" = venv || { sleep "${UV_TAKES:-0}"; exit 0; }
for venv; do :; done
mkdir -p "$venv/bin"
printf '#!/bin/sh\\necho "pid $$ cwd $PWD path $PYTHONPATH args $*"' > "$venv/bin/python"
chmod +x "$venv/bin/python"
"""


class Checkout:
    """A directory with `run`, a lock, and a stand-in for uv first on PATH."""

    def __init__(self, root: Path) -> None:
        self.root = root / "a checkout"
        self.root.mkdir()
        shutil.copy(CHECKOUT / "run", self.root)
        self.lock = self.root / "requirements.lock"
        self.lock.write_text("# nothing\n")
        self.calls = root / "calls"
        tools = root / "tools"
        tools.mkdir()
        (tools / "uv").write_text(UV)
        (tools / "uv").chmod(0o755)
        self.environ = {"PATH": f"{tools}:/usr/bin:/bin", "UV_CALLS": str(self.calls), "HOME": str(root)}

    def start(self, *arguments: str, cwd: Path | None = None, **environ: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, str(self.root / "run"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd or self.root,
            env=self.environ | environ,
        )

    def run(self, *arguments: str, cwd: Path | None = None, **environ: str) -> tuple[int, str, str]:
        process = self.start(*arguments, cwd=cwd, **environ)
        out, err = process.communicate(timeout=100)
        return process.returncode, out, err

    def installs(self) -> int:
        return self.calls.read_text().count("pip sync") if self.calls.exists() else 0


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize("arguments", [(), ("tset",), ("--json",)])
def test_an_unknown_verb_prints_the_usage_sets_nothing_up_and_exits_2(
    checkout: Checkout, arguments: tuple[str, ...]
) -> None:
    code, out, err = checkout.run(*arguments)
    assert (code, out) == (2, "")
    assert "usage: ./run VERB" in err
    assert all(f"no such verb: {word}" in err for word in arguments)
    assert not (checkout.root / ".venv").exists()


def test_help_is_an_answer_not_a_complaint(checkout: Checkout) -> None:
    code, out, err = checkout.run("help")
    assert (code, err) == (0, "")
    assert all(f"\n  {verb}" in out for verb in ("demo", "serve", "doctor", "app", "bench", "test", "check", "clean"))


@pytest.mark.parametrize(
    ("verb", "becomes"),
    [
        ("demo", "-P -m bench.demo --seed 4 x y"),
        ("serve", "-P -m gateway serve --seed 4 x y"),
        ("doctor", "-P -m gateway doctor --seed 4 x y"),
        ("app", "-P -m gateway app --seed 4 x y"),
        ("bench", "-P -m bench --seed 4 x y"),
        ("test", "-P -m pytest --seed 4 x y"),
    ],
)
def test_a_verb_becomes_its_program_with_all_arguments(checkout: Checkout, verb: str, becomes: str) -> None:
    """The same process id: what Ctrl-C and kill reach is the program itself."""
    process = checkout.start(verb, "--seed", "4", "x y", PYTHONPATH="/theirs")
    out, _ = process.communicate(timeout=20)
    root = checkout.root
    assert out == f"pid {process.pid} cwd {root} path {root}:{root}/sdk:/theirs args {becomes}\n"


def test_it_works_from_any_directory_and_leaves_the_person_there(checkout: Checkout, tmp_path: Path) -> None:
    _, out, _ = checkout.run("serve", cwd=tmp_path)
    assert f"cwd {tmp_path} path {checkout.root}:" in out
    _, out, _ = checkout.run("test", cwd=tmp_path)
    assert f"cwd {checkout.root} " in out, "pytest finds its configuration there"


def test_it_installs_once_and_again_only_when_the_lock_changed(checkout: Checkout) -> None:
    _, out, err = checkout.run("demo")
    assert "installing locked dependencies" in err
    assert "installing" not in out, "stdout belongs to the program"
    assert checkout.run("demo")[2] == ""
    assert checkout.installs() == 1
    checkout.lock.write_text("# something\n")
    checkout.run("demo")
    assert checkout.installs() == 2


def test_first_runs_at_the_same_time_install_once(checkout: Checkout) -> None:
    processes = [checkout.start("demo", UV_TAKES="0.5") for _ in range(4)]
    results = [(process.communicate(timeout=20), process.returncode) for process in processes]
    assert all(code == 0 and "bench.demo" in out for (out, _), code in results)
    assert checkout.installs() == 1


def test_a_set_up_killed_on_the_way_is_done_again(checkout: Checkout) -> None:
    process = checkout.start("demo", UV_TAKES="5")
    assert process.stderr is not None
    with process:
        while checkout.installs() == 0:
            assert process.poll() is None
        process.kill()
    assert (checkout.root / ".venv/bin/python").exists(), "it looks complete"
    assert "ready in" in checkout.run("demo")[2]
    assert checkout.installs() == 2


def test_a_venv_whose_python_is_gone_is_made_again(checkout: Checkout) -> None:
    checkout.run("demo")
    (checkout.root / ".venv/bin/python").unlink()
    assert "bench.demo" in checkout.run("demo")[1]


def test_where_uv_can_not_pip_does(checkout: Checkout) -> None:
    """The real venv and the real pip; the lock asks for nothing, so no network is needed."""
    code, out, err = checkout.run("test", "--version", UV_FAILS="1")
    assert "trying pip ... " in err
    assert "ready in" in err
    assert (code, out) == (1, ""), "there is no pytest in that lock"
    assert "No module named pytest" in err
    assert (checkout.root / ".venv/bin/pip").exists()


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("sys.version_info = (3, 10, 2); sys.version = '3.10.2 (x)'", "needs Python 3.11 or newer; .* is 3.10.2\n"),
        ("sys.modules['ensurepip'] = None", "apt install python3-venv, or install uv\n"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(checkout: Checkout, setting: str, sentence: str) -> None:
    script = f"import sys, runpy; {setting}; sys.argv = ['run', 'test']; runpy.run_path('run', run_name='__main__')"
    command = [sys.executable, "-c", script]
    environ = checkout.environ | {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=checkout.root, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(sentence, done.stderr)
    assert "Traceback" not in done.stderr


def test_an_older_python_can_read_it() -> None:
    ast.parse((CHECKOUT / "run").read_text(), feature_version=(3, 7))


def test_clean_removes_what_runs_leave_and_nothing_else(checkout: Checkout) -> None:
    checkout.run("demo")
    for name in ("var", ".mypy_cache"):
        (checkout.root / name).mkdir()
    code, _, err = checkout.run("clean")
    assert code == 0
    assert f"-P -m gateway.embedded {checkout.root}/var" in err, "servers left running there are stopped first"
    assert sorted(os.listdir(checkout.root)) == ["requirements.lock", "run"]


# --- what is installed ----------------------------------------------------------------------------------------------


def test_the_image_installs_what_the_gateway_needs_and_no_more() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    environment = {"python_version": "3.13", "python_full_version": "3.13.0", "extra": ""}
    needed: set[str] = set()
    asked = [Requirement(line) for line in project["dependencies"]]
    while asked:
        requirement = asked.pop()
        applies = requirement.marker is None or requirement.marker.evaluate(environment)
        if applies and requirement.name.lower() not in needed:
            needed.add(requirement.name.lower())
            asked += [Requirement(line) for line in requires(requirement.name) or []]
    listed = re.search(r'ARG RUNTIME="([^"]*)"', (CHECKOUT / "Dockerfile").read_text())
    assert listed is not None
    assert set(listed[1].replace("\\", "").split()) == needed


def test_the_lock_pins_with_hashes_and_names_no_index() -> None:
    lock = (CHECKOUT / "requirements.lock").read_text()
    packages = re.findall(r"^([a-z0-9-]+)==\S+(?: ;.*)? \\\n    --hash=sha256:", lock, re.MULTILINE)
    assert len(packages) == len(re.findall(r"^[a-z]", lock, re.MULTILINE)) > 20
    assert "://" not in lock
    assert "--index" not in lock
