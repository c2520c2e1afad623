"""Seeds of the edits of a benchmark run."""

import zlib
from collections.abc import Iterable

APART, SLOTS = 1000, 1_000_000


def example_seeds(names: Iterable[str], seed: int, predictions: int) -> dict[str, int]:
    """The first seed of each example: prediction i has the i-th after it, and no two examples share one.

    It follows from the name, so that an example mostly keeps it in other plans; where two names ask for the same one, the later
    takes the next that is free.

    Args:
        names: Of the examples.
        seed: The run's; all others follow from it.
        predictions: Most of one edit.
    """
    reach = -(-predictions // APART)
    taken: set[int] = set()
    found: dict[str, int] = {}
    for name in names:
        slot = zlib.crc32(name.encode()) % SLOTS
        while any(near in taken for near in range(slot - reach + 1, slot + reach)):
            slot += 1
        taken.add(slot)
        found[name] = seed + APART * slot
    return found
