"""Training scenes on disk, in shards: images, the object of every pixel, and the scenes.

Shard `k` depends on `k` alone, so any number of processes can render a set together and a killed run resumes where it was.
"""

import functools
import json
import multiprocessing
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.embedded import WINDOW
from sfumato.embedded.world.drawing import STYLES, draw
from sfumato.embedded.world.scene import Scene, Thing, random_scene
from sfumato.embedded.world.split import LEARNED, Part
from sfumato.embedded.writing import written_whole
from sfumato.errors import InputError
from sfumato.masks.window import choose_window

SHARD = 1000
WINDOWED = 0.7  # share of the pictures that show what the model would see of an edit; the others show the whole scene
CLEARED = 0.08  # share of the pictures from which all things are taken, besides the scenes that are empty anyway
WINDOWS = WINDOW - 0.1, WINDOW + 0.1  # least and most context of theirs
LEAST_SEEN = 0.004  # of the picture, by a thing that captions may name
LOOK, CELLS = 64, 16  # side of the picture that the window is chosen on, and whole cells that it has
HELD_OUT = 10_000  # shards from here on are never trained on


def shard_path(folder: Path, index: int) -> Path:
    return folder / f"scenes-{index:05d}.npz"


def training_shards(folder: Path) -> list[Path]:
    """The shards to train on.

    Raises:
        InputError: no-scenes.
    """
    shards = [p for i in range(HELD_OUT) if (p := shard_path(folder, i)).exists()]
    if not shards:
        raise InputError(f"There are no scenes in {folder}; render them with: sfumato train world", code="no-scenes")
    return shards


def render_shard(folder: Path, index: int, count: int = SHARD, size: int = 128, part: Part = LEARNED) -> Path:
    """Render one shard of scenes of a part of the world unless it is there; a killed process leaves none that is half written.

    Shards of two parts must have two folders.
    """
    path = shard_path(folder, index)
    if path.exists():
        return path
    rng = np.random.default_rng([index, 2023])
    scenes = [as_edited(random_scene(rng, part), rng) for _ in range(count)]
    drawn = [scene.render(size) for scene in scenes]
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            images=np.stack([image for image, _ in drawn]),
            owners=np.stack([owner for _, owner in drawn]),
            scenes=np.array(json.dumps([asdict(scene) for scene in scenes])),
        )
    return path


def as_edited(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene, mostly seen through the window that an edit of its main thing would show to the model.

    There the thing stands in the middle, about as large as the mask: what the model learns to draw fills the masks it is given.
    Some are cleared once the view is chosen, as a removal would leave them: words for a ground alone must not bring things.
    """
    cleared = rng.random() < CLEARED
    outline = scene.render(LOOK, samples=1)[1] == 0
    if outline.any() and rng.random() < WINDOWED:
        mask = draw(outline, STYLES[rng.integers(len(STYLES))], rng)
        window = choose_window(mask, LOOK, LOOK // CELLS, "auto", rng.uniform(*WINDOWS))
        scene = scene.cropped(window.left / LOOK, window.top / LOOK, window.width / LOOK)
    return replace(scene, things=()) if cleared else scene


def render(
    one: Callable[..., Path],
    folder: Path,
    shards: int,
    held_out: int,
    size: int,
    workers: int,
    on_progress: Callable[[str], None] = print,
) -> None:
    """Render the first `shards` shards to train on and `held_out` shards that are never trained on, those that are missing.

    Args:
        one: Renders a shard: `render_shard`, that of another part, or `render_pairs` of `pairs`.
        folder: Gets the shards.
        size: Side of the pictures in pixels.
        workers: Processes.
        on_progress: Called with the path of each finished shard.
    """
    indices = [*range(HELD_OUT, HELD_OUT + held_out), *range(shards)]
    with multiprocessing.Pool(workers) as pool:
        for path in pool.imap_unordered(functools.partial(one, folder, size=size), indices):
            on_progress(str(path))


def scene_from_dict(fields: dict[str, Any]) -> Scene:
    """Undo `dataclasses.asdict`, of which JSON has made lists."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Scene(**{**values, "things": tuple(Thing(**thing) for thing in fields["things"])})


def load_shard(path: Path) -> tuple[np.ndarray, np.ndarray, list[Scene]]:
    """Images (n, size, size, 3) uint8, owners (n, size, size) int8 and the n scenes."""
    with np.load(path, allow_pickle=False) as data:
        scenes = [scene_from_dict(fields) for fields in json.loads(str(data["scenes"]))]
        return data["images"], data["owners"], scenes


def seen(scene: Scene, owner: np.ndarray) -> Scene:
    """The scene without what is hardly visible in its picture, for captions.

    Args:
        owner: (H, W) index of the thing in each pixel.
    """
    things = tuple(thing for i, thing in enumerate(scene.things) if (owner == i).mean() > LEAST_SEEN)
    return replace(scene, things=things)
