"""A driver's end of the dialogue (`../driver.py`). Standard library only: it runs in every environment."""

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

# The real stdout carries the dialogue; what a library prints goes to stderr.
_out, sys.stdout = sys.stdout, sys.stderr
account: dict[str, Any] = json.loads(sys.stdin.readline())


def obey(**verbs: Callable[..., Any]) -> None:
    """Do what is asked until nobody asks any more."""
    verbs["verbs"] = lambda: sorted(verbs)
    for line in sys.stdin:
        asked = json.loads(line)
        verb = verbs[asked.pop("do")]
        try:
            said = {"answer": verb(**asked)}
        except Exception as error:
            traceback.print_exc()
            said = {"raised": f"{type(error).__name__}: {error}"}
        _out.write(json.dumps(said) + "\n")
        _out.flush()
