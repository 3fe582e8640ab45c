"""How fast is the generator itself? Against a server of a few lines that says the same bytes to everybody."""

from bench.children import child
from bench.generator import Job
from bench.scenarios.setting import Findings, Row, Setting, generate


def measure(setting: Setting) -> Findings:
    """Requests a second that the generator can make; all other figures must stay far below."""
    with child("serving", "bench.serving", directory=setting.directory) as server:
        host, port = server.address()
        job = Job(
            host=host,
            port=port,
            script="echo",
            connections=setting.connections,
            seconds=setting.seconds,
            warmup_s=0.5,
        )
        result = generate(job, setting.directory)
    us = result.generator_cpu_s / result.requests * 1e6
    row = Row("generator's own ceiling", f"{result.rps:,.0f} requests/s", f"CPU µs: generator {us:.1f}")
    return Findings(figures={"generator_rps": result.rps}, rows=(row,))
