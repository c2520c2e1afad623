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
from sfumato.masks.reading import Mask

SEED = 104_729  # of the benchmark's scenes; nothing is trained on them
SIZE = 128
THIN_SHARE = 0.05  # width of the thin stroke, in sides of the picture: about one latent cell of what the model sees
LEAST_COVER, MOST_COVER = 0.03, 0.4  # of the picture, by the main thing
LEAST_CHANGE = 12.0  # mean difference in levels under the mask between the source and the true picture
MOST_OTHERS = 0.04  # of the mask, by other things

Picture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One edit to be judged.

    Args:
        name: Task or data set, and number; also the name of its files.
        task: Which task it belongs to.
        image: (H, W, 3) the source.
        mask: (H, W) in {0, 1}, 1 = edit.
        prompt: What is asked for.
        wanted: What must be read under the mask: attribute to label.
        truth: (H, W, 3) what the scene would look like, where that is known.
        fields: More fields of the request, such as a scribble.
    """

    name: str
    task: str
    image: Picture
    mask: Mask
    prompt: str
    wanted: Mapping[str, str]
    truth: Picture | None = None
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


TASKS: dict[str, Callable[[_Drawn], Parts]] = {
    "replace": _replace,
    "add": _add,
    "remove": _remove,
    "recolour": _recolour,
    "background": _background,
    "thin": _thin,
    "scribble": _scribble,
    "unseen": _add,  # of a combination that training never showed
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
        after = parts.pop("after", None)
        if (after is None or not _held_out(after)) and _fair(task, parts, owner):
            return Example(name=f"{task}-{number:03d}", task=task, **parts)


def _held_out(scene: Scene) -> bool:
    thing = scene.things[0]
    return unseen(thing.kind, thing.colour)


def _fair(task: str, parts: Parts, owner: NDArray[np.int8]) -> bool:
    """Whether the change can be seen, and the mask shows nothing but what the prompt is about."""
    inside = parts["mask"] > 0
    change = np.abs(parts["truth"][inside].astype(float) - parts["image"][inside]).mean()
    return bool(change > LEAST_CHANGE and (task == "background" or (owner[inside] > 0).mean() < MOST_OTHERS))
