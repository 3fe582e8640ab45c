"""When the axe falls: drawn from the seed, at least twice, spread over the run. Pure."""

import random

EVERY_S = 5.0
KILLS_MIN = 2
# Where in its share of the run a kill may fall: not so early that nothing is under way, not so close to the next that
# the one just started has had no time to answer.
EARLIEST, LATEST = 0.3, 0.8


def kill_moments(seed: int, seconds: float) -> list[float]:
    """Seconds after the first order at which gateway and control arm are killed."""
    rng = random.Random(f"kills:{seed}")
    count = max(KILLS_MIN, round(seconds / EVERY_S))
    share = seconds / count
    return [share * (number + rng.uniform(EARLIEST, LATEST)) for number in range(count)]
