"""Ledger of our own overhead: what a step costs when the networks cost nothing."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from sfumato.bench.speed.edits import EQUAL, Edit, Pictures, diffusers, ours
from sfumato.bench.speed.modules import stand_ins
from sfumato.editor import Editor

FEW, MANY = 10, 60  # steps of two edits whose difference is steps alone
ROUNDS = 7


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """Microseconds of the processor for a step on stand-ins: the median over rounds, the least and the most."""

    median: float
    least: float
    most: float


def overheads(side: int = 512, rounds: int = ROUNDS, few: int = FEW, many: int = MANY) -> dict[str, Overhead]:
    """Overhead of a step: ours, and of diffusers' inpainting pipeline with the same solver, in turns.

    Args:
        side: Of the picture in pixels.
        rounds: Differences of a long and a short edit that the median is taken of.
        few, many: Their steps.
    """
    parts, pictures = stand_ins(side), Pictures(side)
    editor = Editor.from_pipe(parts.pipe())
    makers: dict[str, Callable[[int], Edit]] = {
        "ours": lambda steps: ours(editor, pictures, steps=steps, **EQUAL),
        "diffusers": lambda steps: diffusers(parts, pictures, ddim=True, num_inference_steps=steps),
    }
    edits = {name: (make(few), make(many)) for name, make in makers.items()}
    taken: dict[str, list[float]] = {name: [] for name in edits}
    for number in range(-1, rounds):  # the first round imports and warms up
        for name, (short, long) in edits.items():
            difference = _seconds(long) - _seconds(short)
            if number >= 0:
                taken[name].append(1e6 * difference / (many - few))
    return {name: Overhead(median=median(each), least=min(each), most=max(each)) for name, each in taken.items()}


def _seconds(edit: Edit) -> float:
    start = time.process_time()
    edit()
    return time.process_time() - start
