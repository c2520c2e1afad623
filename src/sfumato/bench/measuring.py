"""Computation of all metrics of one edit."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sfumato.bench.counting import Cost
from sfumato.bench.tasks import Example
from sfumato.embedded.judge import Judge
from sfumato.errors import EditError
from sfumato.metrics.diversity import Distance, best_distance, pairwise
from sfumato.metrics.fidelity import greatest_error, psnr
from sfumato.metrics.precision import Reader, matches, read_predictions
from sfumato.metrics.seam import grain_ratio, seam_elsewhere, seam_ratio
from sfumato.metrics.shape import shape_iou
from sfumato.metrics.text_match import text_match
from sfumato.perception.clip import Scorer, load_scorer

Values = dict[str, float | None]
Picture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class EditOutputs:
    """Outputs of one edit.

    Args:
        predictions: (H, W, 3) each, best first, the user's own pixels around the mask.
        raw: The first of them as the model decoded it, before any pixel of the source was pasted around it.
        seen: (H, W), true where the model's window was: raw equals the source elsewhere.
        seeds: Of the predictions.
        cost: Of making them.
    """

    predictions: list[Picture]
    raw: Picture
    seen: NDArray[np.bool_]
    seeds: list[int]
    cost: Cost


@dataclass(frozen=True)
class Measured:
    """Numbers of one edit, by metric (None: not defined here), and what each prediction was read as."""

    values: Values
    readings: list[dict[str, Any]] = field(default_factory=list)


class Instruments(Protocol):
    """The metrics and models of a protocol."""

    notes: list[str]  # what could not be measured, and why

    def measure(self, example: Example, made: EditOutputs) -> Measured:
        """All numbers of one edit."""


class SceneInstruments:
    """The measures of the rendered tasks. What is missing is left out, with a note.

    Args:
        reader: Reads the regions; None: no precision.
        scorer: Compares with the prompt; None: no text match.
        distance: Of predictions; None: no diversity.
        notes: What is missing.
    """

    def __init__(
        self, reader: Reader | None, scorer: Scorer | None, distance: Distance | None, notes: Sequence[str] = ()
    ) -> None:
        self.reader, self.scorer, self.distance, self.notes = reader, scorer, distance, list(notes)

    @classmethod
    def load(cls) -> "SceneInstruments":
        """The judge, the ranker and the distance of this installation."""
        notes: list[str] = []
        reader = or_note(Judge.load, notes, "Precision is left out.")
        scorer = or_note(lambda: load_scorer("embedded"), notes, "Text match is left out.")
        distance, reasons = best_distance(Judge.load)
        return cls(reader, scorer, distance, notes + reasons)

    def measure(self, example: Example, made: EditOutputs) -> Measured:
        """Precision, diversity and shape of all predictions; the rest of the first one."""
        mask = example.mask > 0
        values = surroundings(example, made) | joining(example, made) | cost_values(made.cost)
        if example.bare is not None:
            values["shape_iou"] = float(np.mean([shape_iou(picture, example.bare, mask) for picture in made.predictions]))
        if self.scorer is not None and example.prompt:
            values["text_match"] = text_match(self.scorer, made.predictions[:1], mask, example.prompt)[0]
        if self.reader is None:
            return Measured(values)
        readings = read_predictions(self.reader, made.predictions, mask)
        hits = [matches(reading, example.wanted) for reading in readings]
        values |= precision_values(hits)
        for name, label in example.wanted.items():
            values[f"{name}_first"] = float(getattr(readings[0], name) == label)
        if self.distance is not None:
            found = [picture for picture, hit in zip(made.predictions, hits, strict=True) if hit]
            values["diversity"] = pairwise(self.distance, found, mask)
        return Measured(values, [asdict(reading) | {"right": hit} for reading, hit in zip(readings, hits, strict=True)])


def or_note(load: Callable[[], Any], notes: list[str], consequence: str) -> Any:
    """The result of `load`, or None and a note."""
    try:
        return load()
    except EditError as error:
        notes.append(f"{consequence} {error.message}")
        return None


def precision_values(hits: Sequence[bool]) -> Values:
    """Precision of the first-ranked prediction, and of all."""
    return {"precision_first": float(hits[0]), "precision_all": float(np.mean(hits))}


def cost_values(cost: Cost) -> Values:
    """The cost of an edit as values of the benchmark."""
    return {
        "seconds": cost.seconds,
        "cpu_seconds": cost.cpu_seconds,
        "model_calls": float(cost.model_calls),
        "peak_memory_mb": cost.peak_memory_mb,
    }


def surroundings(example: Example, made: EditOutputs) -> Values:
    """Error outside the mask: of the worst prediction as the user gets it, and of the first one before any pasting."""
    outside = example.mask == 0
    finals = [greatest_error(picture, example.image, outside) for picture in made.predictions]
    psnrs = [psnr(picture, example.image, outside) for picture in made.predictions]
    window = outside & made.seen
    return {
        "background_max": max(finals),
        "background_psnr": min((value for value in psnrs if value is not None), default=None),
        "background_max_raw": greatest_error(made.raw, example.image, window),
        "background_psnr_raw": psnr(made.raw, example.image, window),
    }


def joining(example: Example, made: EditOutputs) -> Values:
    """Seam and texture of the first prediction, blended and raw, and its PSNR against the true picture."""
    mask, first, truth = example.mask > 0, made.predictions[0], example.truth
    # margins have no source, and an exact outline is where an edge should be
    by_truth = example.inner is not None or example.bare is not None
    reference = truth if by_truth and truth is not None else example.image
    due = 1.0 if truth is None else grain_ratio(truth, mask)
    values: Values = {"seam_elsewhere": seam_elsewhere(first, mask)}
    for suffix, picture in (("", first), ("_raw", made.raw)):
        grain = grain_ratio(picture, mask)
        values[f"seam_ratio{suffix}"] = seam_ratio(picture, reference, mask)
        values[f"texture_ratio{suffix}"] = None if grain is None or due is None else grain / due
    if truth is not None:
        values["counterfactual_psnr"] = psnr(first, truth, mask)
    return values
