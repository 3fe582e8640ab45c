"""What a scenario is given and what it gives back."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from bench.children import child
from bench.generator import Job, Result

RUN_SLACK_S = 30.0  # for starting a generator and for the last answers


class BenchError(Exception):
    """A scenario could not be measured as it says."""


class Setting(msgspec.Struct, frozen=True):
    """`directory` is the scenario's own and new; `seconds` is how long a measurement lasts; `orders` are in Postgres."""

    directory: Path
    seconds: float
    connections: int
    orders: int


class Row(msgspec.Struct, frozen=True):
    """One line of the table for people."""

    what: str
    value: str
    remark: str = ""


class Findings(msgspec.Struct, frozen=True):
    """`figures` go into the JSON line under their names, `rows` into the table."""

    figures: Mapping[str, float]
    rows: tuple[Row, ...]


def generate(job: Job, directory: Path) -> Result:
    """Run a job in a process of its own."""
    with child("generator", "bench.generator", directory=directory) as process:
        answer = process.finish(msgspec.json.encode(job), job.warmup_s + job.seconds + RUN_SLACK_S)
    return msgspec.json.decode(answer, type=Result, strict=False)  # JSON's keys are text, statuses are numbers
