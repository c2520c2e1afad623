"""The rows of the clock ledger: what is compared with what, and the goal for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch

from sfumato.backbones.hardware import choose_device, choose_dtype
from sfumato.bench.speed.counting import recorded_edit
from sfumato.bench.speed.edits import EQUAL, Edit, Pictures, diffusers, ours
from sfumato.bench.speed.ledger import networks_of
from sfumato.bench.speed.modules import Parts, random
from sfumato.editor import Editor
from sfumato.examples import EMPTY_MASK, PROMPT, SCENE


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the compared edits are.

    Args:
        side: Of the picture in pixels, for networks of the size of Stable Diffusion 1.5.
        steps: Of edits with equal steps.
        changes: Of the networks' configurations, as of `modules.on_meta`.
    """

    side: int
    steps: int
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def parts(self, dtype: torch.dtype | None = None, channels: int = 4) -> Parts:
        """Random networks, by default in the number format that this CPU is fastest in."""
        return random(dtype or choose_dtype(choose_device("cpu")), self.side, channels, self.changes)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two ways that are timed in turns, and what their ratio other / base should be.

    Args:
        base, other: What is timed.
        about: The ratio in words.
        most, least: Bounds of the ratio.
        most_seconds: Bound of the median seconds of `other`.
        facts: Settings that belong to the figure.
    """

    base: Edit
    other: Edit
    about: str
    most: float | None = None
    least: float | None = None
    most_seconds: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def overhead(size: Size) -> Pair:
    """An edit over its own forward passes in a bare loop."""
    parts = size.parts()
    editor = Editor.from_pipe(parts.pipe())
    edit = ours(editor, Pictures(size.side), steps=size.steps, **EQUAL)
    ledger = recorded_edit(editor, edit)
    return Pair(
        base=lambda: ledger.replay(parts.networks),
        other=edit,
        about="sfumato / its forward passes in a bare loop",
        most=1.01,
        facts={"calls": ledger.counts, **_format(parts)},
    )


def tuned(size: Size) -> Pair:
    """diffusers' pipeline with 4 channels on the same networks, in the same format, with equal steps and solver."""
    parts = size.parts()
    pictures = Pictures(size.side)
    edit = ours(Editor.from_pipe(parts.pipe()), pictures, steps=size.steps, **EQUAL)  # lays the networks out channels-last
    return Pair(
        base=edit,
        other=diffusers(parts, pictures, ddim=True, num_inference_steps=size.steps),
        about="diffusers tuned, 4 channels / sfumato",
        least=1.0,
        facts=_format(parts),
    )


def tuned_9(size: Size) -> Pair:
    """The same with 9 channels."""
    parts = size.parts(channels=9)
    pictures, fields = Pictures(size.side), {"method": "stable-inpainting", "preset": "diffusers"}
    equal = {name: value for name, value in EQUAL.items() if name != "start_fraction"}
    edit = ours(Editor.from_pipe(parts.pipe(), method="stable-inpainting"), pictures, steps=size.steps, **fields, **equal)
    return Pair(
        base=edit,
        other=diffusers(parts, pictures, ddim=True, num_inference_steps=size.steps),
        about="diffusers tuned, 9 channels / sfumato",
        least=1.0,
        facts=_format(parts),
    )


def defaults(size: Size) -> Pair:
    """diffusers' pipeline as it is by default: 50 steps in float32; ours as it is by default."""
    pictures, parts, plain = Pictures(size.side), size.parts(), size.parts(torch.float32)
    return Pair(
        base=ours(Editor.from_pipe(parts.pipe()), pictures),
        other=diffusers(plain, pictures),
        about="diffusers at its defaults / sfumato at its own",
        least=4.0,
        facts=_format(parts),
    )


def second(size: Size) -> Pair:
    """The second edit of a picture over the first, four steps each."""
    parts = size.parts()
    editor, numbers = Editor.from_pipe(parts.pipe()), count()
    shown = Pictures(size.side)

    def first() -> None:
        nonlocal shown
        shown = Pictures(size.side, next(numbers))
        ours(editor, shown, steps=4, **EQUAL)()

    def again() -> None:
        ours(editor, shown, steps=4, seed=1, **EQUAL)()

    return Pair(base=first, other=again, about="second edit of a picture / first, 4 steps", most=0.85, facts=_format(parts))


def _embedded(model: str, most_seconds: float) -> Callable[[Size], Pair]:
    def make(_size: Size) -> Pair:
        editor = Editor(model)

        def edit() -> Any:
            return editor.edit(image=SCENE, mask=EMPTY_MASK, prompt=PROMPT, n=4, seed=0)

        ledger = recorded_edit(editor, edit)
        return Pair(
            base=lambda: ledger.replay(networks_of(editor)),
            other=edit,
            about=f"{model}, four predictions / its forward passes in a bare loop",
            most_seconds=most_seconds,
            facts={"calls": ledger.counts, "dtype": str(editor.dtype).removeprefix("torch.")},
        )

    return make


def _format(parts: Parts) -> dict[str, str]:
    return {"dtype": str(parts.unet.dtype).removeprefix("torch.")}


ROWS: dict[str, Callable[[Size], Pair]] = {
    "overhead": overhead,
    "tuned": tuned,
    "tuned-9": tuned_9,
    "defaults": defaults,
    "second": second,
    "embedded": _embedded("embedded", 1.0),
    "embedded-fast": _embedded("embedded-fast", 0.3),
}
