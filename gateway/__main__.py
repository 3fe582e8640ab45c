"""`python -m gateway`: first make sure that `channels` is ours, then hand over to the command line."""

import gc
import sys
from pathlib import Path


def main() -> int:
    """Refuse to run over another package named `channels`: Django Channels installs one, too."""
    import channels  # noqa: PLC0415 - the point is to look at it before anything else does

    if Path(channels.__file__ or "").resolve().parent.parent != Path(__file__).resolve().parent.parent:
        sys.stderr.write(
            f"The package `channels` found at {channels.__file__} is not Holdfast's; run Holdfast from its checkout "
            "or image, in an environment of its own.\n"
        )
        return 1
    gc.disable()  # nothing that imports make is garbage; a restart is a seventh faster. Gateway.start enables it.
    from gateway.cli import main as run  # noqa: PLC0415 - only once `channels` is known to be ours

    run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
