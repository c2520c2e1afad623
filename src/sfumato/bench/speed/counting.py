"""Counted calls and FLOPs of whole edits at the size of Stable Diffusion 1.5: ours, diffusers' and the official script's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sfumato.bench.speed.edits import DISTILLED, EQUAL, OFFICIAL, Edit, Pictures, diffusers, ours
from sfumato.bench.speed.ledger import FlopTable, Ledger, networks_of, recorded
from sfumato.bench.speed.modules import Parts, on_meta, stand_ins
from sfumato.editor import Editor

SIDE = 512
REFERENCE = "official"


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The cost of one edit.

    Args:
        name, title: Of the edit.
        calls: How often each network was called with which shapes.
        flops: By network.
    """

    name: str
    title: str
    calls: dict[str, int]
    flops: dict[str, int]

    @property
    def total(self) -> int:
        """FLOPs of all networks."""
        return sum(self.flops.values())


def _own(parts: Parts, **fields: Any) -> Edit:
    return ours(Editor.from_pipe(parts.pipe()), Pictures(SIDE), **fields)


def _second(parts: Parts) -> Edit:
    """An edit of a picture that the editor has edited before, with another prompt."""
    editor, pictures = Editor.from_pipe(parts.pipe()), Pictures(SIDE)
    ours(editor, pictures)()
    return ours(editor, pictures, prompt="a blue cube on the grass")


EDITS: dict[str, tuple[str, int, Callable[[Parts], Edit]]] = {  # title, channels of the UNet, the edit
    REFERENCE: ("official script's schedule", 4, lambda parts: _own(parts, **OFFICIAL)),
    "diffusers": ("diffusers, 4 channels, defaults", 4, lambda parts: diffusers(parts, Pictures(SIDE))),
    "diffusers-9": ("diffusers, 9 channels, defaults", 9, lambda parts: diffusers(parts, Pictures(SIDE))),
    "diffusers-20": (
        "diffusers, 4 channels, DDIM, 20 steps",
        4,
        lambda parts: diffusers(parts, Pictures(SIDE), ddim=True, num_inference_steps=20),
    ),
    "ours": ("sfumato, defaults", 4, _own),
    "ours-second": ("sfumato, defaults, second edit of a picture", 4, _second),
    "ours-paste": ("sfumato, defaults, background=paste", 4, lambda parts: _own(parts, background="paste")),
    "ours-9": ("sfumato, 9 channels, defaults", 9, lambda parts: _own(parts, method="stable-inpainting")),
    "ours-9-fast": (
        "the same, as --fast sets it: DPM-Solver++, 6 steps",
        9,
        lambda parts: _own(parts, method="stable-inpainting", scheduler="dpm++", steps=6),
    ),
    "ours-20": ("sfumato, DDIM, 20 steps, all of them run", 4, lambda parts: _own(parts, steps=20, **EQUAL)),
    "ours-dpm": (
        "sfumato, DPM-Solver++, 20 steps, background=paste",
        4,
        lambda parts: _own(parts, steps=20, scheduler="dpm++", background="paste"),
    ),
    "ours-dpm-8": ("the same, 8 steps", 4, lambda parts: _own(parts, steps=8, scheduler="dpm++", background="paste")),
    "ours-dpm-8-interval": (
        "the same, guidance between noise 1.5 and 20 alone",
        4,
        lambda parts: _own(parts, steps=8, scheduler="dpm++", background="paste", guidance_interval=(1.5, 20)),
    ),
    "ours-lcm": ("sfumato, a model distilled to 4 steps", 4, lambda parts: _own(parts, **DISTILLED)),
}


def ledger_of(name: str, parts: Parts) -> Ledger:
    """The calls of one of EDITS on these parts."""
    edit = EDITS[name][2](parts)
    with recorded(parts.networks) as ledger:
        edit()
    return ledger


def count(names: Sequence[str] = tuple(EDITS)) -> list[Counted]:
    """Count edits on stand-ins, with FLOPs from networks on the meta device: no weights, seconds."""
    parts = {channels: stand_ins(SIDE, channels) for channels in {EDITS[name][1] for name in names}}
    tables = {channels: FlopTable(on_meta(SIDE, channels).networks) for channels in parts}
    counted = []
    for name in names:
        title, channels, _ = EDITS[name]
        ledger = ledger_of(name, parts[channels])
        counted.append(Counted(name=name, title=title, calls=ledger.counts, flops=tables[channels].of(ledger)))
    return counted


def recorded_edit(editor: Editor, edit: Edit) -> Ledger:
    """The calls of an edit by an editor with a latent model."""
    with recorded(networks_of(editor)) as ledger:
        edit()
    return ledger
