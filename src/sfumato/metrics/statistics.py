"""Bootstrap confidence intervals of means, medians and paired differences (Efron 1979)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 4000
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean, or another statistic, over examples with its 95 % interval.

    Args:
        value, low, high: The statistic, and the ends of the interval.
        n: Examples it was taken over.
    """

    value: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def estimate(values: Sequence[float], seed: int = 0, draws: int = DRAWS, statistic: Callable[..., Any] = np.mean) -> Estimate:
    """Mean of one value per example, and the percentile interval of the means of examples drawn again with replacement.

    Args:
        values: One for each example.
        seed, draws: Of the bootstrap.
        statistic: In place of the mean; takes an array and an axis.

    Raises:
        ValueError: Without values.
    """
    if not values:
        raise ValueError("nothing to take the mean of")
    array = np.asarray(values, np.float64)
    places = np.random.default_rng(seed).integers(0, len(array), (draws, len(array)))
    means = statistic(array[places], axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=float(statistic(array, axis=0)), low=float(low), high=float(high), n=len(array))


def paired_difference(first: Sequence[float | None], second: Sequence[float | None], seed: int = 0) -> Estimate | None:
    """Second minus first over the examples that both have a value for; None if there are none.

    Args:
        first, second: One value per example, in the same order; None where there is none.
        seed: Of the bootstrap.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return estimate([b - a for a, b in pairs], seed) if pairs else None
