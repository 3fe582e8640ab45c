"""How long to wait before the next try: full jitter under a deadline, and never shorter than the gateway asked for."""

import random

import msgspec


class Retry(msgspec.Struct, frozen=True):
    """Bounds of one call, all tries together."""

    deadline_s: float = 30.0
    try_timeout_s: float = 15.0  # longer than the gateway waits for a channel, else a pay is asked again too early
    first_pause_s: float = 0.05
    pause_max_s: float = 2.0

    def pause_s(self, tries: int, rng: random.Random, asked_for_s: float = 0.0) -> float:
        """Seconds to wait after the `tries`-th failure. Full jitter: callers must not return in step."""
        ceiling_s = min(self.pause_max_s, self.first_pause_s * 2 ** min(tries - 1, 16))
        return asked_for_s + rng.uniform(0, ceiling_s)
