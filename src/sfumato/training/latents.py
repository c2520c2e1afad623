"""Training data of the denoiser: pictures encoded once, each with its possible captions."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sfumato.embedded.autoencoder import PatchAutoencoder
from sfumato.embedded.world.captions import caption, ground_alone
from sfumato.embedded.world.scene import Scene
from sfumato.errors import InputError, MaskError
from sfumato.masks.reading import read_mask
from sfumato.pictures.reading import read
from sfumato.training.autoencoder import to_pixels
from sfumato.training.loop import save_atomically
from sfumato.training.precision import half_precision
from sfumato.training.scenes import load_shard, seen, training_shards
from sfumato.training.workers import shard_by_rank

BATCH = 16
PICTURES = (".png", ".jpg", ".jpeg", ".webp")

Caption = Callable[[np.random.Generator], str]


@dataclass(frozen=True)
class Words:
    """Possible captions of a picture: of all of it, its main thing alone, or its ground alone; None if nothing is left out."""

    whole: Caption
    main: Caption | None = None
    ground: Caption | None = None


@dataclass(frozen=True)
class LatentSet:
    """Scaled latents (n, C, h, w), shares of each cell that the main thing and all others cover (n, 1, h, w), and n words."""

    latents: Tensor
    main: Tensor
    others: Tensor
    words: Sequence[Words]


@torch.no_grad()
def encode(vae: PatchAutoencoder, pixels: Tensor) -> Tensor:
    """Pixels (B, 3, H, W) in [-1, 1] to scaled latents (B, C, h, w) float32."""
    with half_precision(pixels.device):
        codes = vae.encoder(pixels.contiguous(memory_format=torch.channels_last)).float()
    return (codes - vae.config.shift_factor) * vae.config.scaling_factor


def encode_all(vae: PatchAutoencoder, images: np.ndarray) -> Tensor:
    """(n, H, W, 3) uint8 to scaled latents (n, C, h, w) bfloat16, a few pictures at a time."""
    return torch.cat([encode(vae, to_pixels(images[i : i + BATCH])).bfloat16() for i in range(0, len(images), BATCH)])


def load_vae(folder: Path) -> PatchAutoencoder:
    """The autoencoder in a folder, float32, ready to encode."""
    return PatchAutoencoder.from_pretrained(folder).float().eval().to(memory_format=torch.channels_last)


def encoded_shards(vae_folder: Path, scenes: Path) -> tuple[list[Path], Tensor]:
    """All rendered shards and their latents (n, C, h, w), encoded by the workers together unless cached beside the shards.

    A cache is named after the content of the autoencoder and of the shard, so that no other's is ever read.

    Raises:
        InputError: no-scenes.
    """
    shards = training_shards(scenes)
    folder = scenes / "latents" / _digest_of(sorted(p for p in vae_folder.iterdir() if p.is_file()))
    caches = [folder / f"{_digest_of([shard])}.pt" for shard in shards]
    vae = load_vae(vae_folder)
    for shard, cache in shard_by_rank(list(zip(shards, caches, strict=True))):
        if not cache.exists():
            save_atomically({"latents": encode_all(vae, load_shard(shard)[0])}, cache)
    return shards, torch.cat([torch.load(cache, weights_only=True)["latents"] for cache in caches])


def load_scene_latents(vae_folder: Path, scenes: Path) -> LatentSet:
    """Latents of all rendered shards (see `encoded_shards`), with their captions.

    Raises:
        InputError: no-scenes.
    """
    shards, latents = encoded_shards(vae_folder, scenes)
    main, others, words = [], [], []
    for shard in shards:
        _, owners, drawn = load_shard(shard)
        main.append(_cover(owners == 0, latents.shape[-1]))
        others.append(_cover(owners > 0, latents.shape[-1]))
        words += [_words(seen(scene, owner)) for owner, scene in zip(owners, drawn, strict=True)]
    return LatentSet(latents, torch.cat(main), torch.cat(others), words)


def _digest_of(files: Sequence[Path]) -> str:
    """Of their names and contents."""
    named = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            named.update(f"{hashlib.file_digest(stream, 'sha256').hexdigest()} {file.name}\n".encode())
    return named.hexdigest()[:16]


def _cover(shown: np.ndarray, side: int) -> Tensor:
    """(n, H, W) bool to the share of each of side x side cells, (n, 1, side, side) bfloat16."""
    return F.avg_pool2d(torch.from_numpy(shown.astype(np.float32))[:, None], shown.shape[-1] // side).bfloat16()


def _words(scene: Scene) -> Words:
    whole = partial(caption, scene)
    if not scene.things:
        return Words(whole)
    main = partial(caption, replace(scene, things=scene.things[:1])) if len(scene.things) > 1 else None
    return Words(whole, main, partial(ground_alone, scene.ground))


def load_folder_latents(vae_folder: Path, folder: Path, size: int) -> LatentSet:
    """Latents of a user's own pictures; see `load_pictures`.

    Raises:
        InputError: no-pictures, no-caption.
        MaskError: mask-size, mask-empty.
    """
    images, texts, _ = load_pictures(folder, size)
    latents = encode_all(load_vae(vae_folder), images)
    everything = torch.ones_like(latents[:, :1])
    return LatentSet(latents, everything, 0 * everything, [Words(partial(always, text)) for text in texts])


def load_pictures(folder: Path, size: int) -> tuple[NDArray[np.uint8], list[str], list[NDArray[np.bool_] | None]]:
    """A user's own pictures (n, size, size, 3), cut square, their captions, and their masks (size, size) if there are any.

    Captions are in a text file beside each picture with the same name, or in `metadata.jsonl`, one
    {"file_name": ..., "text": ...} a line. The mask of `duck.jpg` is `duck_mask.png` or `masks/duck.png`, white on the duck.

    Raises:
        InputError: no-pictures, no-caption.
        MaskError: mask-size, mask-empty.
    """
    texts = captions_of(folder)
    images: list[NDArray[np.uint8]] = []
    masks: list[NDArray[np.bool_] | None] = []
    for name in texts:
        picture = read(folder / name)
        images.append(_square(picture.rgb, size))
        beside = next((path for path in _mask_paths(folder / name) if path.exists()), None)
        if beside is None:
            masks.append(None)
            continue
        mask = _square(read_mask(picture.size, beside, None, picture), size) > 0
        if not mask.any():
            message = f"{beside} marks nothing in the middle square of {name}; mark something there, or remove the mask."
            raise MaskError(message, code="mask-empty")
        masks.append(mask)
    return np.stack(images), list(texts.values()), masks


def _mask_paths(picture: Path) -> tuple[Path, Path]:
    return picture.with_name(f"{picture.stem}_mask.png"), picture.parent / "masks" / f"{picture.stem}.png"


def _square(array: np.ndarray, size: int) -> np.ndarray:
    """The middle square of a picture or mask (H, W, ...), brought to `size`."""
    side = min(array.shape[:2])
    top, left = (array.shape[0] - side) // 2, (array.shape[1] - side) // 2
    square = np.ascontiguousarray(array[top : top + side, left : left + side])
    way = cv2.INTER_AREA if size < side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (size, size), interpolation=way), np.uint8)


def always(text: str, rng: np.random.Generator) -> str:
    """The one caption of a picture."""
    return text


def captions_of(folder: Path) -> dict[str, str]:
    """Name of each picture in a user's folder, and its caption; see `load_pictures`.

    Raises:
        InputError: no-pictures, no-caption.
    """
    pictures = sorted(p for p in folder.glob("*") if p.suffix.lower() in PICTURES)
    masks = {_mask_paths(picture)[0] for picture in pictures}
    pictures = [picture for picture in pictures if picture not in masks]
    if not pictures:
        raise InputError(f"{folder} holds no pictures ({', '.join(PICTURES)}).", code="no-pictures")
    listed: dict[str, str] = {}
    if (folder / "metadata.jsonl").exists():
        lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        listed = {row["file_name"]: row["text"] for row in map(json.loads, filter(str.strip, lines))}
    texts = {}
    for picture in pictures:
        beside = picture.with_suffix(".txt")
        text = beside.read_text(encoding="utf-8").strip() if beside.exists() else listed.get(picture.name)
        if not text:
            raise InputError(f"{picture} has no caption: write it to {beside.name} or to metadata.jsonl.", code="no-caption")
        texts[picture.name] = text
    return texts
