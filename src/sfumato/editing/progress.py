"""Progress of an edit: stage and step, fraction of the whole, and estimated time left."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from sfumato.editing.preparing import Inputs
    from sfumato.masks.window import Window

MEASURED = ("denoise", "background", "rank")
USUAL = {"background": 0.1, "rank": 0.05}  # of the time that denoising takes
MEMORY = 0.9  # how much of a stage's pace is carried over from one event to the next: first steps are slow, and others follow


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress report of an edit. Raise `sfumato.errors.Cancelled` from the callback to stop it.

    Args:
        stage: "load", "encode", "denoise", "background" or "rank"; the third and fourth alternate if there are several batches.
        step, total: Work done in this stage, over all predictions.
        preview: Makes the current prediction as a picture of the window, when asked; None where there is none.
        latent_preview: The same almost for nothing, at the latents' size: colours and rough shapes, no details.
        window: Where in the picture the preview belongs.
        inputs: The pictures as they were read, in that window.
        share: Part of this stage's work that is done, in [0, 1], where batches of different sizes make it differ from
            step / total.
        fraction: Part of the whole edit that is done, in [0, 1]: never falls, and is 1 at the end. Loading counts nothing.
        seconds_left: Estimate of the time that the rest takes; None before anything could be measured.
    """

    stage: str
    step: int
    total: int
    preview: "Callable[[], Image.Image] | None" = None
    latent_preview: "Callable[[], Image.Image] | None" = None
    window: "Window | None" = None
    inputs: "Inputs | None" = None
    share: float | None = None
    fraction: float | None = None
    seconds_left: float | None = None


Listener = Callable[[Progress], None]


class Meter:
    """Fills in `fraction` and `seconds_left`, from the steps that an edit reports and the time between them.

    A stage takes what was measured of it so far; before it has begun, what it usually takes beside the denoising. Work that
    has been done moves the fraction on by its part of all work then left. So the fraction neither falls nor stands still,
    however wrong a first guess was, also when memory ran out and a batch is made once more.

    Args:
        usual: Time of the stages "background" and "rank" beside denoising's, which is 1.
        clock: Seconds.
    """

    def __init__(self, usual: Mapping[str, float] = USUAL, clock: Callable[[], float] = time.monotonic) -> None:
        self.fraction = 0.0
        self._clock, self._last = clock, clock()
        self._share = dict.fromkeys(MEASURED, 0.0)
        self._work = dict.fromkeys(MEASURED, 0.0)  # like the shares, but work done twice counts twice, and old work less
        self._seconds = dict.fromkeys(MEASURED, 0.0)
        self.expect(usual)

    def expect(self, usual: Mapping[str, float]) -> None:
        """Set the usual times of the stages, once more is known of the edit."""
        self._usual = {"denoise": 1.0, **usual}

    def __call__(self, progress: Progress) -> Progress:
        """The report with fraction and time left filled in; one that has its fraction stays as it is."""
        if progress.fraction is not None:
            return progress
        now = self._clock()
        spent, self._last = now - self._last, now
        if progress.stage in MEASURED:
            share = progress.step / max(1, progress.total) if progress.share is None else progress.share
            self._advance(progress.stage, min(max(share, 0.0), 1.0), spent)
        left = self._left()
        return replace(progress, fraction=self.fraction, seconds_left=left if any(self._work.values()) else None)

    def wrapping(self, listener: Listener | None) -> Listener:
        """A listener that fills in every progress report and passes it on."""

        def listening(progress: Progress) -> None:
            filled = self(progress)
            if listener is not None:
                listener(filled)

        return listening

    def _advance(self, stage: str, share: float, spent: float) -> None:
        if stage == "rank":  # begins when all else is done
            self._share |= {"denoise": 1.0, "background": 1.0}
        new = max(share - self._share[stage], 0.0)
        self._share[stage] = share
        if not new:
            return
        self._work[stage] = MEMORY * self._work[stage] + new
        self._seconds[stage] = MEMORY * self._seconds[stage] + max(spent, 1e-6)
        done, left = new * self._whole(stage), self._left()
        self.fraction = self.fraction + (1 - self.fraction) * done / (done + left) if left > 0 else 1.0

    def _left(self) -> float:
        """Seconds, or whatever unit the usual times are in while nothing was measured."""
        return sum((1 - self._share[stage]) * self._whole(stage) for stage in MEASURED)

    def _whole(self, stage: str) -> float:
        """What a stage takes from its beginning to its end."""
        known = [name for name in (stage, *MEASURED) if self._work[name]]
        if not known:
            return self._usual[stage]
        return self._seconds[known[0]] / self._work[known[0]] * self._usual[stage] / self._usual[known[0]]
