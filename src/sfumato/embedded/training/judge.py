"""Train the judge on renders that nothing else is trained on.

Each scene is rendered with and without its main thing, so that a picture can be put together as an edit makes it: the thing
inside a mask, the place without it around; or the empty place under the mask of a thing. A mask often has the outline of another
thing than the one under it, so that its shape tells nothing. Predictions of a small model are softer, blotchier and less exact
in colour than renders, so views are made so at random, inside the mask alone or everywhere.
"""

import argparse
import functools
import json
import multiprocessing
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sfumato.embedded.judge import ATTRIBUTES, NOTHING, Judge, crop
from sfumato.embedded.training.loop import Run, progress
from sfumato.embedded.training.scenes import scene_from_dict
from sfumato.embedded.world.scene import Scene, Thing, random_scene
from sfumato.embedded.world.shapes import KINDS
from sfumato.embedded.world.surfaces import COLOURS, GROUNDS, MATERIALS
from sfumato.masks.drawing import STYLES, draw, stroke

SHARD = 250
SEED = 7919  # of the judge's own scenes; nothing else uses it
HELD_OUT = 10_000  # shards from here on are never trained on
LEAST_SHARE = 0.01  # of the picture that a thing must cover to be asked about
UNREAD = -100  # the label of what a view does not show
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """A scene with its main thing and without, and which thing each pixel shows."""

    scene: Scene
    full: Image
    bare: Image
    owner: NDArray[np.int8]


def shard_path(folder: Path, index: int) -> Path:
    return folder / f"pairs-{index:05d}.npz"


def render_pairs(folder: Path, index: int, count: int = SHARD, size: int = 128) -> Path:
    """Render one shard unless it is there; written to a temporary file and renamed."""
    path = shard_path(folder, index)
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([index, SEED])
    scenes: list[Scene] = []
    while len(scenes) < count:  # as many with combinations that the other models never see: the judge has to know all
        scene = random_scene(rng, unseen=bool(len(scenes) % 2))
        scenes += [scene] * bool(scene.things)
    drawn = [scene.render(size) for scene in scenes]
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.savez(
            file,
            full=np.stack([image for image, _ in drawn]),
            owner=np.stack([owner for _, owner in drawn]),
            bare=np.stack([scene.without(0).render(size)[0] for scene in scenes]),
            scenes=np.array(json.dumps([asdict(scene) for scene in scenes])),
        )
    temporary.rename(path)
    return path


def load_pairs(paths: list[Path]) -> list[Pair]:
    """Every pair whose main thing can be seen."""
    pairs = []
    for path in paths:
        with np.load(path, allow_pickle=False) as data:
            scenes = [scene_from_dict(fields) for fields in json.loads(str(data["scenes"]))]
            full, bare, owner = data["full"], data["bare"], data["owner"]
        pairs += [Pair(*parts) for parts in zip(scenes, full, bare, owner, strict=True) if (parts[3] == 0).mean() > LEAST_SHARE]
    return pairs


@dataclass(frozen=True)
class View:
    """A picture, a mask, and what the judge should read there; "" where that cannot be seen."""

    image: Image
    mask: NDArray[np.bool_]
    truth: dict[str, str]


def thing_view(pair: Pair, shape: NDArray[np.bool_], rng: np.random.Generator) -> View:
    """The main thing or another, under a mask with some room; the main thing one time in two as an edit would put it there.

    Args:
        pair: What is shown.
        shape: (H, W), outline of some other thing, that the mask takes instead of the thing's own, or joins to it.
        rng: Decides.
    """
    index = 0
    if rng.random() < 0.25:
        others = [i for i in range(1, len(pair.scene.things)) if (pair.owner == i).mean() > LEAST_SHARE]
        index = int(rng.choice(others)) if others else 0
    outline = pair.owner == index
    chance = rng.random()
    if chance < 0.7:
        borrowed = fitted(shape, outline, rng)
        outline = outline | borrowed if chance < 0.4 else borrowed
    mask = _mask(outline, rng)
    as_edit = index == 0 and rng.random() < 0.5
    image = np.where(mask[..., None], _faint(pair, rng), pair.bare) if as_edit else pair.full
    return View(image, mask, _attributes(pair.scene.things[index]) | {"ground": pair.scene.ground})


def fitted(shape: NDArray[np.bool_], outline: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """One outline (H, W) brought to about the place and size of another."""
    left, top, width, height = cv2.boundingRect(shape.astype(np.uint8))
    x, y, w, h = cv2.boundingRect(outline.astype(np.uint8))
    sx, sy = w / width * rng.uniform(0.95, 1.2), h / height * rng.uniform(0.95, 1.2)
    matrix = np.array([[sx, 0, x + w / 2 - sx * (left + width / 2)], [0, sy, y + h / 2 - sy * (top + height / 2)]])
    moved = cv2.warpAffine(shape.astype(np.uint8), matrix, shape.shape[::-1], flags=cv2.INTER_NEAREST).astype(bool)
    return moved if moved.any() else outline


def stroke_view(pair: Pair, shape: NDArray[np.bool_], rng: np.random.Generator) -> View:
    """The main thing inside a thin stroke alone: its colour can be read, its shape cannot."""
    mask = stroke(pair.owner == 0, rng.uniform(0.03, 0.09) * len(pair.owner), rng).astype(bool)
    image = np.where(mask[..., None], pair.full, pair.bare)
    truth = {"kind": "", "colour": pair.scene.things[0].colour, "material": "", "ground": pair.scene.ground}
    return View(image, mask, truth)


def empty_view(pair: Pair, shape: NDArray[np.bool_], rng: np.random.Generator) -> View:
    """Where the main thing was taken away, or a mask of everything but the things."""
    nothing = {"kind": NOTHING, "colour": "", "material": "", "ground": pair.scene.ground}
    if rng.random() < 0.35:
        return View(pair.full, ~_mask(pair.owner >= 0, rng, grown_only=True), nothing)
    thin = rng.random() < 0.2
    outline = pair.owner == 0
    mask = stroke(outline, rng.uniform(0.03, 0.09) * len(outline), rng).astype(bool) if thin else _mask(outline, rng)
    return View(pair.bare, mask, nothing)


def _mask(outline: NDArray[np.bool_], rng: np.random.Generator, grown_only: bool = False) -> NDArray[np.bool_]:
    style = "grown" if grown_only else STYLES[rng.integers(len(STYLES))]
    return draw(outline, style, rng).astype(bool)


def _faint(pair: Pair, rng: np.random.Generator) -> Image:
    """The thing, one time in three with the empty place shining through here and there."""
    if rng.random() > 1 / 3:
        return pair.full
    cells = int(rng.integers(3, 8))
    size = len(pair.full), len(pair.full)
    strength = np.asarray(cv2.resize(rng.uniform(0.5, 1.3, (cells, cells)).astype(np.float32), size), np.float32)
    cover = np.clip(strength, 0, 1)[..., None]
    return (pair.bare + cover * (pair.full.astype(np.float32) - pair.bare)).round().astype(np.uint8)


def _attributes(thing: Thing) -> dict[str, str]:
    return {"kind": thing.kind, "colour": thing.colour, "material": thing.material}


def worn(image: Image, rng: np.random.Generator) -> Image:
    """A softer, blotchier, slightly recoloured picture with unsteady outlines, as small models make them."""
    picture = image.astype(np.float32)
    if rng.random() < 0.5:
        picture = wobbled(picture, rng)
    if rng.random() < 0.5:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.5) * len(image) / 128), np.float32)
    if rng.random() < 0.35:  # detail finer than the model draws is gone
        small = round(len(image) * rng.uniform(0.4, 0.8))
        coarse = cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA)
        picture = np.asarray(cv2.resize(coarse, (len(image), len(image)), interpolation=cv2.INTER_CUBIC), np.float32)
    if rng.random() < 0.4:
        cells = int(rng.integers(4, 20))
        blotches = rng.normal(0, rng.uniform(2, 9), (cells, cells, 3)).astype(np.float32)
        picture = picture + cv2.resize(blotches, (len(image), len(image)), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        picture = picture * rng.uniform(0.9, 1.1, 3).astype(np.float32) + rng.uniform(-8, 8)
    return np.clip(picture, 0, 255).round().astype(np.uint8)


def wobbled(picture: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """The picture (S, S, 3) with its pixels moved smoothly by up to a few hundredths of its side: a ring stays a ring."""
    side, cells = len(picture), int(rng.integers(5, 14))
    reach = rng.uniform(0.004, 0.016) * side
    coarse = rng.normal(0, reach, (cells, cells, 2)).astype(np.float32)
    shift = np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.float32)
    ys, xs = np.mgrid[0:side, 0:side].astype(np.float32)
    moved = cv2.remap(picture, xs + shift[..., 0], ys + shift[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(moved, np.float32)


def view(pair: Pair, shape: NDArray[np.bool_], rng: np.random.Generator, wear: bool = True) -> View:
    """A random view of a pair, worn inside the mask, everywhere, or not at all; flipped one time in two."""
    chance = rng.random()
    make = thing_view if chance < 0.62 else stroke_view if chance < 0.72 else empty_view
    shown = make(pair, shape, rng)
    image = shown.image
    if wear and rng.random() < 0.75:
        everywhere = rng.random() < 0.4
        image = np.where(shown.mask[..., None] | everywhere, worn(image, rng), image)
    turn = -1 if rng.random() < 0.5 else 1
    return View(np.ascontiguousarray(image[:, ::turn]), np.ascontiguousarray(shown.mask[:, ::turn]), shown.truth)


def batch(judge: Judge, pairs: list[Pair], count: int, rng: np.random.Generator, wear: bool = True) -> tuple[Tensor, Tensor]:
    """Crops (B, 4, SIDE, SIDE) and labels (B, attributes), UNREAD where nothing is to be read."""
    views = [view(pairs[i], pairs[j].owner == 0, rng, wear) for i, j in rng.integers(0, len(pairs), (count, 2))]
    crops = np.stack([crop(shown.image, shown.mask, rng.uniform(1.15, 1.45) if wear else 1.25) for shown in views])
    labels = [[_label(judge, name, shown.truth[name]) for name in ATTRIBUTES] for shown in views]
    return torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def _label(judge: Judge, attribute: str, name: str) -> int:
    return list(judge.labels[attribute]).index(name) if name else UNREAD


def loss_of(logits: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Sum over the attributes of the cross entropies of what can be read."""
    parts = [F.cross_entropy(logits[name].float(), labels[:, i], ignore_index=UNREAD) for i, name in enumerate(ATTRIBUTES)]
    return torch.stack([part for part in parts if part.isfinite()]).sum()


def make_judge() -> Judge:
    """An untrained judge of today's world."""
    return Judge(kinds=list(KINDS), colours=list(COLOURS), materials=list(MATERIALS), grounds=list(GROUNDS))


def train(folder: Path, out: Path, minutes: float, batch_size: int = 64, lr: float = 1.5e-3) -> None:
    """Train on the shards in `folder`, go on from `out`'s checkpoint if there is one, and print the held-out accuracy.

    Held-out pairs are rendered from seeds of their own; worn views are softened and recoloured as in training.
    """
    pairs = load_pairs([path for path in sorted(folder.glob("pairs-*.npz")) if path.name < shard_path(folder, HELD_OUT).name])
    judge = make_judge().to(memory_format=torch.channels_last)
    run = Run(judge, out / "checkpoint.pt", minutes, lr, cooldown=0.7)
    report = progress(run)
    rng = np.random.default_rng(time.time_ns())
    for _ in run.steps():
        crops, labels = batch(judge, pairs, batch_size, rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = judge(crops.contiguous(memory_format=torch.channels_last))
        loss = loss_of(logits, labels)
        run.update(loss, batch_size)
        report(loss.item())
    judge.load_state_dict(run.average)
    if run.leader:
        print("held-out accuracy", json.dumps(accuracy(judge, folder)))
        print("of worn views", json.dumps(accuracy(judge, folder, wear=True)))


@torch.inference_mode()
def accuracy(judge: Judge, folder: Path, count: int = 2000, wear: bool = False) -> dict[str, float]:
    """Share of held-out views that are read rightly, by attribute, with the number of views under "views"."""
    pairs = load_pairs([path for path in sorted(folder.glob("pairs-*.npz")) if path.name >= shard_path(folder, HELD_OUT).name])
    rng = np.random.default_rng(0)
    hits: dict[str, list[bool]] = {name: [] for name in ATTRIBUTES}
    judge.eval()
    for _ in range(count // 50):
        crops, labels = batch(judge, pairs, 50, rng, wear)
        logits = judge(crops)
        for i, name in enumerate(ATTRIBUTES):
            read = labels[:, i] != UNREAD
            hits[name] += (logits[name].argmax(1) == labels[:, i])[read].tolist()
    return {name: round(float(np.mean(values)), 4) for name, values in hits.items()} | {"views": float(count)}


def export(checkpoint: Path, out: Path) -> None:
    """Write the averaged weights as a folder that `Judge.load` reads, float16 safetensors."""
    judge = make_judge()
    judge.load_state_dict(torch.load(checkpoint, weights_only=True)["average"])
    judge.half().save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True, help="folder of the rendered pairs; missing shards are rendered")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--shards", type=int, default=24, help=f"of {SHARD} pairs each, to train on")
    parser.add_argument("--held-out", type=int, default=2, help="shards that are never trained on")
    parser.add_argument("--size", type=int, default=128, help="of the renders, in pixels")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that render")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--export", type=Path, help="only write the checkpoint's averaged weights to this folder")
    a = parser.parse_args()
    if a.export:
        export(a.out / "checkpoint.pt", a.export)
        return
    indices = [*range(HELD_OUT, HELD_OUT + a.held_out), *range(a.shards)]
    render = functools.partial(render_pairs, a.pairs, size=a.size)
    if a.workers > 1:
        with multiprocessing.Pool(a.workers) as pool:
            for _ in pool.imap_unordered(render, indices):
                pass
    else:
        for index in indices:
            render(index)
    train(a.pairs, a.out, a.minutes, a.batch_size, a.lr)


if __name__ == "__main__":
    main()
