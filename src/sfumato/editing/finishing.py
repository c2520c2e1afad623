"""Composition of the final pictures from their edited windows, on demand, because large pictures take much memory."""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from PIL import Image

from sfumato.editing.preparing import Inputs
from sfumato.masks.window import resize
from sfumato.pictures import picture
from sfumato.pictures.picture import Part
from sfumato.request import EditRequest


class Predictions(Sequence[Image.Image]):
    """A read-only list of pictures that are composed on first access and kept. See `sfumato.request.one_by_one`.

    Args:
        parts: The pictures of the edit, in each of its windows.
        request: The resolved edit.
        windows: What the model made, in the order wanted: (n, h, w, 3) uint8 or uint16 for each window.
    """

    def __init__(self, parts: Sequence[Inputs], request: EditRequest, windows: Sequence[np.ndarray]) -> None:
        self._parts, self._request, self._windows = parts, request, windows
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
        return f"<{len(self)} pictures of {'x'.join(map(str, self._parts[0].picture.size))}>"

    def one_by_one(self) -> Iterator[Image.Image]:
        """All pictures in turn, without keeping any that is not kept already."""
        for number in range(len(self)):
            made = self._made.get(number)
            yield self._make(number) if made is None else made

    def _make(self, number: int) -> Image.Image:
        return put_back(self._parts, [made[number] for made in self._windows], self._request)


def put_back(parts: Sequence[Inputs], windows: Sequence[np.ndarray], request: EditRequest) -> Image.Image:
    """The edited windows, each (h, w, 3), in the whole picture, in the source's own mode, depth and colour space."""
    edited = [
        Part(
            colours=resize(window, (part.window.width, part.window.height)),
            left=part.window.left,
            top=part.window.top,
            opacity=part.alpha,
            cover=part.cover,
        )
        for part, window in zip(parts, windows, strict=True)
    ]
    return picture.put_back(parts[0].picture, edited, whole=not request.keep_unmasked, strip=request.strip)
