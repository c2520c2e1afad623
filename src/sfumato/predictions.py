"""Finished pictures of an edit, made from their windows when they are asked for: of a large picture each takes much memory."""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from PIL import Image

from sfumato.images import restore
from sfumato.inputs import Inputs
from sfumato.masks.feather import composite
from sfumato.masks.window import at_window, crop, paste_back
from sfumato.request import EditRequest


class Predictions(Sequence[Image.Image]):
    """A list that cannot be changed, though each picture can: one that was asked for is kept. See `sfumato.request.one_by_one`.

    Args:
        inputs: The pictures of the edit.
        request: The resolved edit.
        windows: (n, h, w, 3) uint8: what the model made, in the order wanted.
    """

    def __init__(self, inputs: Inputs, request: EditRequest, windows: np.ndarray) -> None:
        self._inputs, self._request, self._windows = inputs, request, windows
        self._made: dict[int, Image.Image] = {}

    def __len__(self) -> int:
        return len(self._windows)

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
        return f"<{len(self)} pictures of {'x'.join(map(str, self._inputs.picture.size))}>"

    def one_by_one(self) -> Iterator[Image.Image]:
        """All pictures in turn, without keeping any that is not kept already."""
        for number in range(len(self)):
            made = self._made.get(number)
            yield self._make(number) if made is None else made

    def _make(self, number: int) -> Image.Image:
        return put_back(self._inputs, self._windows[number], self._request)


def put_back(inputs: Inputs, window: np.ndarray, request: EditRequest) -> Image.Image:
    """The edited window, (h, w, 3) uint8, in the whole picture, in the source's own mode."""
    pixels = at_window(inputs.window, window)
    if request.keep_unmasked:
        pixels = composite(crop(inputs.picture.rgb, inputs.window), pixels, inputs.alpha)
    canvas = paste_back(inputs.picture.rgb, inputs.window, pixels)
    transparency_is_mask = request.mask is None and request.box is None
    return restore(canvas, inputs.picture, opaque=inputs.mask if transparency_is_mask else None)
