"""From latents to pictures: decoding, background reconstruction, and composition of the whole pictures from their windows.

Whole pictures are composed on demand, because large ones take much memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import torch
from PIL import Image

from sfumato.background.registry import BACKGROUNDS
from sfumato.editing.memory import halve, if_it_fits
from sfumato.editing.prepared import Prepared, PreparedWindow
from sfumato.editing.preparing import Inputs
from sfumato.editing.sampling import Latents
from sfumato.masks.window import resize
from sfumato.pictures import picture
from sfumato.pictures.colour import shown
from sfumato.pictures.picture import Part
from sfumato.pictures.samples import narrow, top_of
from sfumato.pictures.tensors import to_samples, to_uint8
from sfumato.pictures.transparency import flattened
from sfumato.request import EditRequest

Compose = Callable[[Sequence[np.ndarray]], Image.Image]


class Composed(Sequence[Image.Image]):
    """A read-only list of pictures that are composed on first access and kept. See `sfumato.request.one_by_one`.

    Args:
        compose: A picture of what the model made in each window, (h, w, 3 or 4) uint8 or uint16.
        windows: What it made in all, in the order wanted: (n, h, w, 3 or 4) for each window.
        size: Width and height of the pictures.
    """

    def __init__(self, compose: Compose, windows: Sequence[np.ndarray], size: tuple[int, int]) -> None:
        self._compose, self._windows, self._size = compose, windows, size
        self._made: dict[int, Image.Image] = {}

    def __len__(self) -> int:
        return len(self._windows[0])

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        if number not in self._made:
            self._made[number] = self._make(number)
        return self._made[number]

    def __repr__(self) -> str:
        return f"<{len(self)} pictures of {'x'.join(map(str, self._size))}>"

    def one_by_one(self) -> Iterator[Image.Image]:
        """All pictures in turn, without keeping any that is not kept already."""
        for number in range(len(self)):
            made = self._made.get(number)
            yield self._make(number) if made is None else made

    def _make(self, number: int) -> Image.Image:
        return self._compose([made[number] for made in self._windows])


def put_back(parts: Sequence[Inputs], windows: Sequence[np.ndarray], request: EditRequest) -> Image.Image:
    """The edited windows, each (h, w, 3 or 4), in the whole picture, in the source's own mode, depth and colour space."""
    if not request.keep_unmasked:
        windows = [
            flattened(window, to_samples(part.pixels[0], 8 * window.itemsize))
            for part, window in zip(parts, windows, strict=True)
        ]
    edited = [_full_size(part, window) for part, window in zip(parts, windows, strict=True)]
    return picture.put_back(parts[0].picture, edited, whole=not request.keep_unmasked, strip=request.strip)


def layer(parts: Sequence[Inputs], windows: Sequence[np.ndarray]) -> Image.Image:
    """What the edited windows, each (h, w, 3 or 4), add to the picture: RGBA, 8 bits, of its size, sRGB."""
    width, height = parts[0].picture.size
    canvas = np.zeros((height, width, 4), np.uint8)
    for inputs, window in zip(parts, windows, strict=True):
        part = _full_size(inputs, window)
        alpha = np.rint(part.opacity * 255).astype(np.uint8)
        place = np.s_[part.top : part.top + len(alpha), part.left : part.left + alpha.shape[1]]
        canvas[place] = np.where(alpha[..., None] > 0, np.dstack([narrow(part.colours), alpha]), canvas[place])
    return Image.fromarray(canvas)


def _full_size(inputs: Inputs, window: np.ndarray) -> Part:
    """An edited window, (h, w, 3 or 4), at the size it has in the picture; opaque as far as the mask and its own opacity go."""
    size = inputs.window.width, inputs.window.height
    colours, opacity, cover = resize(np.ascontiguousarray(window[..., :3]), size), inputs.alpha, inputs.cover
    if window.shape[-1] == 4:
        own = resize(window[..., 3].astype(np.float32) / top_of(window), size).clip(0, 1)
        opacity, cover = opacity * own, None if cover is None else cover * own
    return Part(colours=colours, left=inputs.window.left, top=inputs.window.top, opacity=opacity, cover=cover)


def restore_all(edit: Prepared, made: Iterable[Latents]) -> list[np.ndarray]:
    """The predictions in each window, (n, h, w, 3 or 4), uint8 or uint16 as the picture's depth is, in the order of their seeds.

    Args:
        edit: The edit.
        made: What was sampled for it; each part is decoded before the next is asked for, so that it may be sampled only then.

    Raises:
        ResourceError: out-of-memory, with a single prediction.
    """
    done: list[list[np.ndarray]] = [[] for _ in edit.windows]
    for part in made:
        pixels, left = done[part.window.index], part.latents
        while len(left):
            size = min(len(left), part.window.limit)
            restored = if_it_fits(_restore, part.window, left[:size], len(pixels))
            if restored is None:
                halve(size, [part.window])
            else:
                pixels += restored
                left = left[size:]
    return [np.stack(pixels) for pixels in done]


def _restore(window: PreparedWindow, latents: torch.Tensor, first: int) -> list[np.ndarray]:
    """Decode a window's predictions from the `first` on, and restore what surrounds the edit."""
    edit, inputs = window.edit, window.inputs
    assert window.request.background
    with torch.inference_mode():
        with edit.clock.stage("denoise"):
            decoded = window.decode(latents)
        with edit.clock.stage("background"):
            pixels = BACKGROUNDS[window.request.background].load()(
                edit.backbone.autoencoder,
                latents,
                decoded,
                inputs.pixels.to(decoded.device),
                inputs.mask_pixels.to(decoded.device),
                window.watching_background(first, len(latents)),
            )
    return [to_samples(image, inputs.picture.depth) for image in pixels]


def animation(edit: Prepared, windows: list[np.ndarray], request: EditRequest) -> list[Image.Image]:
    """The first prediction after every step: one window after the other, with those before finished."""
    frames: list[Image.Image] = []
    finished: list[np.ndarray] = []
    for window, made in zip(edit.windows, windows, strict=True):
        with torch.inference_mode():
            pictures = [to_uint8(window.decode(frame)[0]) for frame in window.frames]
        parts = [each.inputs for each in edit.windows[: len(finished) + 1]]
        frames += [shown(put_back(parts, [*finished, picture], request)) for picture in pictures]
        finished.append(made[0])
    return frames
