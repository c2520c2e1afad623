"""Events and outcomes of an item, as plain data that can be pickled."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from PIL import Image

from sfumato.editing.stored import to_text
from sfumato.errors import EditError
from sfumato.pictures.encoding import encode
from sfumato.pictures.metadata import Metadata
from sfumato.pictures.writing import METADATA_KEY
from sfumato.request import EditResult, one_by_one


@dataclass(frozen=True, kw_only=True)
class Event:
    """Where an item is.

    Args:
        id: The item's.
        stage, step, total, fraction, seconds_left: As in `sfumato.editing.progress.Progress`.
        preview: A small JPEG of the picture as it stands, if it was asked for.
        partial: The whole picture as it stands, RGB, if it was asked for.
    """

    id: str
    stage: str
    step: int
    total: int
    fraction: float
    seconds_left: float | None = None
    preview: bytes | None = None
    partial: Image.Image | None = None


class Wanted(NamedTuple):
    """The pictures that somebody looks at now: each costs time, so none is made unasked."""

    preview: bool = False
    partial: bool = False


class Listener(Protocol):
    """Whoever follows items."""

    def wanted(self, event: Event) -> Wanted:
        """Called before each event is sent. An error that it raises ends the item and is its outcome."""

    def __call__(self, event: Event) -> None:
        """Hear of an event, with the pictures that were wanted."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an item ended: with a result or with an error.

    Args:
        id: The item's.
        result: The predictions; whole pictures are made when they are asked for, one by one.
        error: What kept it from its end. Its code is "internal" if that is no fault of the request.
        shared: Items that were sampled in its batches, itself among them.
    """

    id: str
    result: EditResult | None = None
    error: EditError | None = None
    shared: int = 1

    def files(self) -> Iterator[tuple[str, bytes]]:
        """The pictures as PNG, each with the request it was made from, and the mask as it was understood; one by one."""
        assert self.result is not None
        for index, image in enumerate(one_by_one(self.result.images)):
            texts = {METADATA_KEY: to_text(self.result, index)}
            yield f"{index}.png", encode(image, "PNG", stored=texts, keep=Metadata.of(image), compress_level=4)
        yield "mask.png", encode(self.result.mask, "PNG")

    def record(self) -> dict[str, Any]:
        """The result without its pictures."""
        assert self.result is not None
        result = self.result
        return {
            "files": [f"{index}.png" for index in range(len(result.images))],
            "width": result.mask.width,
            "height": result.mask.height,
            "seeds": result.seeds,
            "scores": result.scores,
            "notes": result.notes,
            "timings": {stage: round(seconds, 3) for stage, seconds in result.timings.items()},
            "request": result.request.model_dump(mode="json", exclude={"image", "mask", "scribble"}),
        }
