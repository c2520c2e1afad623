"""Ratios of times on machines that others use too: interleaved rounds, and a null test that may say "inconclusive".

A round runs base, other, base again, other again. The ratio of a round is that of the sums; the null test's is that of the two
runs of the base, which do the same work. A ratio is only worth as much as its null test.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.metrics.statistics import Estimate, estimate

FEWEST = 3  # rounds that an interval is made of
NULL = (0.95, 1.05)  # where the interval of the null test must lie
APART = 0.10  # by how much the two estimators of a ratio may differ

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
Times = dict[str, float]  # seconds by clock


@dataclass(frozen=True)
class Round:
    """Seconds of the four runs of a round."""

    base: Times
    other: Times
    base_again: Times
    other_again: Times


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A ratio of times, other / base, by one clock.

    Args:
        ratio: Median over rounds, with the 95 % interval of a bootstrap over rounds.
        of_minima: Ratio of the shortest runs.
        null, null_of_minima: The same of the base against itself.
        base, other: Median seconds of a run.
        reason: Why nothing can be concluded; empty if something can.
    """

    ratio: Estimate
    of_minima: float
    null: Estimate
    null_of_minima: float
    base: float
    other: float
    reason: str

    def verdict(self, most: float | None = None, least: float | None = None) -> str:
        """Whether the ratio is within these bounds: "met", "missed" or "inconclusive"; without bounds "measured"."""
        if self.reason:
            return "inconclusive"
        if most is None and least is None:
            return "measured"
        return "met" if (most is None or self.ratio.value <= most) and (least is None or self.ratio.value >= least) else "missed"


def interleave(
    base: Callable[[], Any], other: Callable[[], Any], *, seconds: float, fewest: int = FEWEST, warm: int = 1
) -> list[Round]:
    """Run rounds until the time is up.

    Args:
        base, other: What is compared.
        seconds: Wall clock for all rounds, the warm ones included.
        fewest: Rounds at least, whatever the clock says.
        warm: Runs of each before the first round, which choose kernels and count for nothing.
    """
    start = time.perf_counter()
    rounds: list[Round] = []
    for _ in range(warm):
        base()
        other()
    while len(rounds) < fewest or time.perf_counter() - start < seconds:
        rounds.append(Round(_timed(base), _timed(other), _timed(base), _timed(other)))
    return rounds


def _timed(run: Callable[[], Any]) -> Times:
    before = {name: read() for name, read in CLOCKS.items()}
    run()
    return {name: read() - before[name] for name, read in CLOCKS.items()}


def compare(rounds: Sequence[Round], clock: str = "wall") -> Comparison:
    """The ratio other / base over some rounds.

    Raises:
        ValueError: Without rounds.
    """
    base, other = ([getattr(one, name)[clock] for one in rounds] for name in ("base", "other"))
    base_again, other_again = ([getattr(one, f"{name}_again")[clock] for one in rounds] for name in ("base", "other"))
    ratio = _median_ratio(np.add(other, other_again), np.add(base, base_again))
    null = _median_ratio(np.array(base_again), np.array(base))
    minima = min(*other, *other_again) / min(*base, *base_again)
    null_minima = min(base_again) / min(base)
    return Comparison(
        ratio=ratio,
        of_minima=minima,
        null=null,
        null_of_minima=null_minima,
        base=float(np.median([*base, *base_again])),
        other=float(np.median([*other, *other_again])),
        reason=_reason(ratio, minima, null, null_minima),
    )


def _median_ratio(above: Any, below: Any) -> Estimate:
    return estimate((above / below).tolist(), statistic=np.median)


def _reason(ratio: Estimate, minima: float, null: Estimate, null_minima: float) -> str:
    if ratio.n < FEWEST:
        return f"{ratio.n} rounds are too few, at least {FEWEST} are needed"
    if null.low < NULL[0] or null.high > NULL[1]:
        return f"the same work took {null.low:.2f} to {null.high:.2f} of its time when repeated"
    for what, middle, least in (("ratio", ratio.value, minima), ("null test", null.value, null_minima)):
        if abs(middle / least - 1) > APART:
            return f"the {what} is {middle:.2f} by the median and {least:.2f} by the shortest runs"
    return ""
