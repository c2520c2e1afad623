"""Events and outcomes of items, as picklable data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from PIL import Image

from sfumato.editing.stored import to_text
from sfumato.errors import EditError
from sfumato.pictures.encoding import encode
from sfumato.pictures.metadata import Metadata
from sfumato.pictures.writing import METADATA_KEY
from sfumato.request import PICTURES, EditResult, one_by_one


@dataclass(frozen=True, kw_only=True)
class Event:
    """Progress of an item.

    Args:
        id: Id of the item.
        stage, step, total, fraction, seconds_left: As in `sfumato.editing.progress.Progress`.
        preview: A small JPEG of the current state, if the listener wanted it.
        partial: The current state as a whole RGB picture, if the listener wanted it.
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
    """Which previews an event is to carry. Each costs time, so by default none is made."""

    preview: bool = False
    partial: bool = False


def partial_due(event: Event, shown: int, wanted: int) -> bool:
    """Whether it is time for the next whole picture of an item, of which there are to be `wanted`, spread over its steps."""
    return shown < wanted and event.step / max(1, event.total) >= (shown + 1) / (wanted + 1)


class Listener(Protocol):
    """Interface for following items."""

    def wanted(self, event: Event) -> Wanted:
        """The previews wanted; called before each event. An error that it raises ends the item and becomes its outcome."""

    def __call__(self, event: Event) -> None:
        """Receive an event, with the previews that were wanted."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """End of an item: a result or an error.

    Args:
        id: Id of the item.
        result: The predictions; whole pictures are composed on access.
        error: Why it failed. The code is "internal" if the request is not at fault.
        shared: Number of items in its batches, itself included.
        lead: Whether it is the one that the others joined.
    """

    id: str
    result: EditResult | None = None
    error: EditError | None = None
    shared: int = 1
    lead: bool = True

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Names and bytes of the result's files, lazily: predictions as PNG with their stored request, and the mask."""
        assert self.result is not None
        for index, image in enumerate(one_by_one(self.result.images)):
            texts = {METADATA_KEY: to_text(self.result, index)}
            yield f"{index}.png", encode(image, "PNG", stored=texts, keep=Metadata.of(image), compress_level=4)
        yield "mask.png", encode(self.result.mask, "PNG")

    def record(self) -> dict[str, Any]:
        """The result without its pictures, as JSON values."""
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
            "request": result.request.model_dump(mode="json", exclude=set(PICTURES)),
        }
