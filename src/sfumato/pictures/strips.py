"""Conversion of large pictures between Pillow and NumPy in strips, to limit memory."""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STRIP_PIXELS = 2**20
FILE_SHA256 = "sfumato\0sha256"  # key of `info`: digest of the file that a picture was opened from; keys in files hold no NUL


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The picture from top to bottom: the first row of each strip, and its pixels."""
    width, height = image.size
    rows = max(1, STRIP_PIXELS // max(1, width))
    for top in range(0, height, rows):
        part = image.crop((0, top, width, min(top + rows, height)))
        part.info = image.info  # a transparent colour is converted with it
        yield top, part


def to_array(image: Image.Image, mode: str) -> NDArray[np.uint8]:
    """What `np.array(image.convert(mode))` gives: (H, W) or (H, W, C) uint8.

    Args:
        image: Not empty.
        mode: One of 8 bits a channel.
    """
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (image.height, image.width) if channels == 1 else (image.height, image.width, channels)
    pixels = np.empty(shape, dtype=np.uint8)
    for top, part in strips(image):
        pixels[top : top + part.height] = np.asarray(part.convert(mode))
    return pixels


def to_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """What `Image.fromarray(pixels)` gives, for (H, W) or (H, W, C) uint8, not empty."""
    return assembled(lambda rows: pixels[rows], (pixels.shape[1], pixels.shape[0]))


def assembled(rows: Callable[[slice], NDArray[np.uint8]], size: tuple[int, int]) -> Image.Image:
    """The picture of this width and height that has these rows, each strip of them (h, W) or (h, W, C)."""
    width, height = size
    step = max(1, STRIP_PIXELS // width)
    image = Image.new(Image.fromarray(rows(slice(0, 1))).mode, size)
    for top in range(0, height, step):
        image.paste(Image.fromarray(rows(slice(top, min(top + step, height)))), (0, top))
    return image


def sha256(image: Image.Image) -> str:
    """Digest of the file that the picture was opened from, if `info` has it; else of mode, size and `image.tobytes()`."""
    if FILE_SHA256 in image.info:
        return str(image.info[FILE_SHA256])
    digest = hashlib.sha256(f"{image.mode}{image.size}".encode())
    for _, part in strips(image):
        digest.update(part.tobytes())
    return digest.hexdigest()
