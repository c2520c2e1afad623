"""Training data of the judge: rendered scenes with and without their main object, in reproducible shards."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfumato.backbones.hub import WEIGHTS
from sfumato.embedded.world.captions import name, place
from sfumato.embedded.world.scene import Scene, random_scene
from sfumato.embedded.writing import written_whole
from sfumato.errors import InputError
from sfumato.training.scenes import HELD_OUT, scene_from_dict
from sfumato.training.softening import most_redrawn, redrawn, softened

SHARD = 250
SEED = 7919  # of the judge's own scenes; nothing else uses it
SOFT_EVERY, REDRAWN_EVERY = 4, 2  # of the pairs: softened from the first on, redrawn from the second on
LEAST_SHARE = 0.01  # of the picture that a thing must cover to be asked about
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """A scene with its main thing and without, which thing each pixel of either shows, and both softened (see `softening`)."""

    scene: Scene
    full: Image
    bare: Image
    owner: NDArray[np.int8]
    bare_owner: NDArray[np.int8]  # numbers as if the main thing had never been there
    soft_full: Image
    soft_bare: Image


def shard_path(folder: Path, index: int) -> Path:
    return folder / f"pairs-{index:05d}.npz"


def render_pairs(folder: Path, index: int, count: int = SHARD, size: int = 128) -> Path:
    """Render one shard unless it is there; a killed process leaves none that is half written."""
    path = shard_path(folder, index)
    if path.exists():
        return path
    rng = np.random.default_rng([index, SEED])
    scenes: list[Scene] = []
    while len(scenes) < count:  # as many with combinations that the other models never see: the judge has to know all
        scene = random_scene(rng, unseen=bool(len(scenes) % 2))
        scenes += [scene] * bool(scene.things)
    drawn = [scene.render(size) for scene in scenes]
    bare = [scene.without(0).render(size) for scene in scenes]
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            full=np.stack([image for image, _ in drawn]),
            owner=np.stack([owner for _, owner in drawn]),
            bare=np.stack([image for image, _ in bare]),
            bare_owner=np.stack([owner for _, owner in bare]),
            scenes=np.array(json.dumps([asdict(scene) for scene in scenes])),
        )
    return path


def shards_of(folder: Path, held_out: bool) -> list[Path]:
    """The shards to train on, or those to measure on.

    Raises:
        InputError: no-scenes.
    """
    first = shard_path(folder, HELD_OUT).name
    found = [path for path in sorted(folder.glob("pairs-*.npz")) if (path.name >= first) == held_out]
    if not found:
        raise InputError(f"There are no pairs of scenes in {folder}; render them first.", code="no-scenes")
    return found


def load_pairs(paths: list[Path], model: Path = WEIGHTS) -> list[Pair]:
    """Every pair whose main thing can be seen.

    Args:
        paths: Of shards.
        model: Folder of the embedded model that softens.

    Raises:
        InputError: old-scenes.
    """
    pairs = []
    for path in paths:
        drawn = zip(*_load(path), *softened_shard(path, model), strict=True)
        pairs += [Pair(*parts) for parts in drawn if (parts[3] == 0).mean() > LEAST_SHARE]
    return pairs


def _load(path: Path) -> tuple[list[Scene], Image, Image, NDArray[np.int8], NDArray[np.int8]]:
    with np.load(path, allow_pickle=False) as data:
        if "bare_owner" not in data:
            raise InputError(f"{path} was rendered by an earlier version; remove it and render it anew.", code="old-scenes")
        scenes = [scene_from_dict(fields) for fields in json.loads(str(data["scenes"]))]
        return scenes, data["full"], data["bare"], data["owner"], data["bare_owner"]


def softened_shard(path: Path, model: Path = WEIGHTS) -> Image:
    """Softened (full, bare), (2, n, H, W, 3), of the shard in `path`, kept beside it; one pair in four stays sharp."""
    kept = path.with_name(path.name.replace("pairs-", "soft-")).with_suffix(".npy")
    if not kept.exists():
        scenes, full, bare, _, _ = _load(path)
        rng, both = np.random.default_rng(int(path.stem.split("-")[1])), np.stack([full, bare])
        both[:, ::SOFT_EVERY] = softened(both[:, ::SOFT_EVERY], model, rng)
        part, drawn = both[:, 1::REDRAWN_EVERY], scenes[1::REDRAWN_EVERY]
        texts = [name(scene.things[0], rng)[0] for scene in drawn] + [place(scene.ground, rng) for scene in drawn]
        most = [most_redrawn(scene) for scene in drawn] * 2
        both[:, 1::REDRAWN_EVERY] = redrawn(part.reshape(-1, *part.shape[2:]), texts, most, model, rng).reshape(part.shape)
        with written_whole(kept) as temporary, temporary.open("wb") as file:
            np.save(file, both)
    return np.asarray(np.load(kept, allow_pickle=False))
