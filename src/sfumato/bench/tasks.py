"""Tasks on rendered scenes: each example has a picture, a mask, a prompt, the expected content and the true picture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.embedded.judge import NOTHING
from sfumato.embedded.world.drawing import STYLES, draw, stroke
from sfumato.embedded.world.scene import Scene, random_scene
from sfumato.embedded.world.split import LEARNED, unseen
from sfumato.embedded.world.surfaces import COLOURS
from sfumato.errors import OptionError
from sfumato.masks.canvas import with_plain_margins
from sfumato.masks.reading import Mask
from sfumato.metrics.shape import changed
from sfumato.values import Box

SEED = 104_729  # of the benchmark's scenes; nothing is trained on them
SIZE = 128
THIN_SHARE = 0.05  # width of the thin stroke, in sides of the picture: about one latent cell of what the model sees
LEAST_COVER, MOST_COVER = 0.03, 0.4  # of the picture, by the main thing
LEAST_CHANGE = 12.0  # mean difference in levels under the mask between the source and the true picture
MOST_OTHERS = 0.04  # of the mask, by other things
LEAST_SHAPE = 0.9  # of an exact outline, by what differs from the bare ground in the true picture
MARGINS = ((0, 0, 1 / 3, 0), (1 / 4, 0, 1 / 4, 0), (1 / 6, 1 / 6, 1 / 6, 1 / 6))  # left, top, right, bottom, in sides

Picture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One edit to be judged.

    Args:
        name: Task or data set, and number; also the name of its files.
        task: Which task it belongs to.
        image: (H, W, 3) the source, with plain margins if they are what is to be painted.
        mask: (H, W) in {0, 1}, 1 = edit.
        prompt: What is asked for; may be empty.
        wanted: What must be read under the mask: attribute to label.
        truth: (H, W, 3) what the scene would look like, where that is known.
        bare: (H, W, 3) the scene without the thing that is asked for, where the mask is that thing's exact outline.
        inner: x, y, width and height of what the editor is given, if the rest of `image` are margins.
        fields: More fields of the request, such as a scribble.
    """

    name: str
    task: str
    image: Picture
    mask: Mask
    prompt: str
    wanted: Mapping[str, str]
    truth: Picture | None = None
    bare: Picture | None = None
    inner: Box | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Drawn:
    """A scene rendered once, what is drawn at random beside it, and the example's number, by which masks and wording vary."""

    scene: Scene
    image: Picture
    owner: NDArray[np.int8]
    rng: np.random.Generator
    number: int

    @property
    def outline(self) -> NDArray[np.bool_]:
        return self.owner == 0

    @property
    def names_material(self) -> bool:
        return self.number % 2 == 1

    def mask(self, outline: NDArray[np.bool_]) -> Mask:
        return draw(outline, STYLES[self.number % len(STYLES)], self.rng)

    def render(self, scene: Scene) -> tuple[Picture, NDArray[np.int8]]:
        return scene.render(len(self.image))


Parts = dict[str, Any]  # of an Example, less its name and task


def _phrase(wanted: Mapping[str, str]) -> str:
    """Words for a thing: "a red ball", "a shiny red ball"."""
    words = " ".join(wanted[name] for name in ("material", "colour", "kind") if name in wanted)
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _wanted(scene: Scene, material: bool) -> dict[str, str]:
    thing = scene.things[0]
    wanted = {"kind": thing.kind, "colour": thing.colour}
    return wanted | {"material": thing.material} if material else wanted


def _other(names: Any, than: str, rng: np.random.Generator) -> str:
    return str(rng.choice([name for name in names if name != than]))


def _replace(drawn: _Drawn) -> Parts:
    """The main thing by another kind in another colour; the mask has room for both."""
    thing, rng = drawn.scene.things[0], drawn.rng
    changes = {"kind": _other(LEARNED.kinds, thing.kind, rng), "colour": _other(LEARNED.colours, thing.colour, rng)}
    if drawn.names_material:
        changes["material"] = _other(LEARNED.materials, thing.material, rng)
    after = drawn.scene.replaced(0, **changes)
    truth, owner = drawn.render(after)
    wanted = _wanted(after, drawn.names_material)
    return {
        "image": drawn.image,
        "mask": drawn.mask(drawn.outline | (owner == 0)),
        "wanted": wanted,
        "prompt": _phrase(wanted),
        "truth": truth,
        "after": after,
    }


def _add(drawn: _Drawn) -> Parts:
    """The main thing onto the ground where it was taken away."""
    wanted = _wanted(drawn.scene, drawn.names_material)
    return {
        "image": drawn.render(drawn.scene.without(0))[0],
        "mask": drawn.mask(drawn.outline),
        "wanted": wanted,
        "prompt": _phrase(wanted),
        "truth": drawn.image,
    }


def _remove(drawn: _Drawn) -> Parts:
    """The main thing, asking for the bare ground."""
    return {
        "image": drawn.image,
        "mask": drawn.mask(drawn.outline),
        "wanted": {"kind": NOTHING},
        "prompt": f"empty {drawn.scene.ground}",
        "truth": drawn.render(drawn.scene.without(0))[0],
    }


def _recolour(drawn: _Drawn) -> Parts:
    after = drawn.scene.replaced(0, colour=_other(LEARNED.colours, drawn.scene.things[0].colour, drawn.rng))
    wanted = _wanted(after, drawn.names_material)
    return {
        "image": drawn.image,
        "mask": drawn.mask(drawn.outline),
        "wanted": wanted,
        "prompt": _phrase(wanted),
        "truth": drawn.render(after)[0],
        "after": after,
    }


def _background(drawn: _Drawn) -> Parts:
    """All but the things, by another ground."""
    ground = _other(LEARNED.grounds, drawn.scene.ground, drawn.rng)
    keep = draw(drawn.owner >= 0, "grown", drawn.rng)
    return {
        "image": drawn.image,
        "mask": (1 - keep).astype(np.uint8),
        "wanted": {"ground": ground},
        "prompt": f"empty {ground}",
        "truth": drawn.render(drawn.scene.on(ground))[0],
        "fields": {"window": "whole"},
    }


def _thin(drawn: _Drawn) -> Parts:
    """A stroke where the main thing would stand: its colour must be seen, its shape cannot be."""
    mask = stroke(drawn.outline, THIN_SHARE * len(drawn.image), drawn.rng)
    return _add(drawn) | {"mask": mask, "wanted": {"colour": drawn.scene.things[0].colour}}


def _scribble(drawn: _Drawn) -> Parts:
    """A blob of the thing's colour about where it would stand, as a hurried hand paints it."""
    thing = drawn.scene.things[0]
    reach = max(1, round(0.05 * np.sqrt(drawn.outline.sum())))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    blob = cv2.erode(draw(drawn.outline, "brush", drawn.rng), kernel, iterations=2)
    linear = np.minimum(1.0, np.array(COLOURS[thing.colour]) * 0.9 + 0.02)
    colour = (255 * linear ** (1 / 2.2)).round().astype(np.uint8)
    layer = np.zeros((*blob.shape, 4), np.uint8)
    layer[blob > 0] = (*colour, 255)
    return _add(drawn) | {"fields": {"scribble": Image.fromarray(layer)}}


def _outpaint(drawn: _Drawn) -> Parts | None:
    """The margins of a scene, in which there is only ground and sky: on the right, on both sides, or all around."""
    size = len(drawn.image)
    left, top, right, bottom = (round(share * size) for share in MARGINS[drawn.number % len(MARGINS)])
    inner = (left, top, size - left - right, size - top - bottom)
    mask = np.ones((size, size), np.uint8)
    mask[top : size - bottom, left : size - right] = 0
    if (drawn.owner[mask > 0] >= 0).any():
        return None
    return {
        "image": np.asarray(with_plain_margins(Image.fromarray(drawn.image), inner)),
        "mask": mask,
        "wanted": {"kind": NOTHING, "ground": drawn.scene.ground},
        "prompt": f"empty {drawn.scene.ground}",
        "truth": drawn.image,
        "inner": inner,
        "fields": {"task": "outpaint", "expand": (left, top, right, bottom)},
    }


def _remove_wordless(drawn: _Drawn) -> Parts | None:
    """As `remove`, without words, where nothing stood behind the thing. Masks have room already, so they are not grown."""
    parts = _remove(drawn)
    behind = drawn.render(drawn.scene.without(0))[1]
    if (behind[parts["mask"] > 0] >= 0).any():
        return None
    return parts | {"prompt": "", "fields": {"task": "remove", "mask_grow": 0}}


def _shape(drawn: _Drawn) -> Parts | None:
    """As `add`, under the exact outline of what is added, where that stands out from the ground."""
    parts = _add(drawn)
    if changed(drawn.image, parts["image"])[drawn.outline].mean() < LEAST_SHAPE:
        return None
    return parts | {"mask": drawn.outline.astype(np.uint8), "bare": parts["image"]}


TASKS: dict[str, Callable[[_Drawn], Parts | None]] = {  # None: the scene does not suit the task
    "replace": _replace,
    "add": _add,
    "remove": _remove,
    "recolour": _recolour,
    "background": _background,
    "thin": _thin,
    "scribble": _scribble,
    "unseen": _add,  # of a combination that training never showed
    "outpaint": _outpaint,
    "remove_wordless": _remove_wordless,
    "shape": _shape,
}


def check_tasks(names: tuple[str, ...]) -> None:
    """Refuse unknown names.

    Raises:
        OptionError: task-unknown, listing the known ones.
    """
    for name in names:
        if name not in TASKS:
            raise OptionError(f"Unknown task {name!r}: choose from {', '.join(TASKS)}.", code="task-unknown")


def example(task: str, number: int, size: int = SIZE) -> Example:
    """One example of a task; the same arguments give the same example.

    Scenes are drawn until one fits: the main thing is large enough, the change can be seen, no other thing fills the mask, and
    only the task "unseen" asks for combinations that are held out.
    """
    rng = np.random.default_rng([SEED, list(TASKS).index(task), number])
    while True:
        scene = random_scene(rng, LEARNED, unseen=task == "unseen")
        if not scene.things:
            continue
        image, owner = scene.render(size)
        if not LEAST_COVER < (owner == 0).mean() < MOST_COVER:
            continue
        parts = TASKS[task](_Drawn(scene, image, owner, rng, number))
        if parts is None:
            continue
        after = parts.pop("after", None)
        if (after is None or not _held_out(after)) and _fair(task, parts, owner):
            return Example(name=f"{task}-{number:03d}", task=task, **parts)


def _held_out(scene: Scene) -> bool:
    thing = scene.things[0]
    return unseen(thing.kind, thing.colour)


def _fair(task: str, parts: Parts, owner: NDArray[np.int8]) -> bool:
    """Whether the change can be seen, and the mask shows nothing but what the prompt is about."""
    if "inner" in parts:  # there is no source in margins
        return True
    inside = parts["mask"] > 0
    change = np.abs(parts["truth"][inside].astype(float) - parts["image"][inside]).mean()
    return bool(change > LEAST_CHANGE and (task == "background" or (owner[inside] > 0).mean() < MOST_OTHERS))
