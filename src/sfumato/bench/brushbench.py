"""BrushBench (arXiv:2403.06976): 600 captioned pictures of 512x512, to be edited inside or outside the mask."""

from pathlib import Path

import numpy as np

from sfumato.bench import quality
from sfumato.bench.measuring import EditOutputs, Measured, Values, cost_values, joining, or_note, surroundings
from sfumato.bench.reading import from_runs, invalid, read_json, read_rgb
from sfumato.bench.runner import Plan
from sfumato.bench.tasks import Example

MAPPING = "mapping_file.json"
MASKS = {"inside": "inpainting_mask", "outside": "outpainting_mask"}
NEEDED = ("image", "caption", *MASKS.values())


def prepare(
    data: Path, *, predictions: int = 1, limit: int | None = None, seed: int = 0
) -> tuple[Plan, "QualityInstruments", str]:
    """Plan and instruments; see `protocols.prepare`."""
    mapping = read_json(data / MAPPING)
    keys = list(mapping)[:limit]
    for key in keys:
        missing = [name for name in NEEDED if name not in mapping[key]]
        if missing:
            raise invalid(data / MAPPING, f"lacks {', '.join(missing)} in the entry {key}")

    def make(name: str) -> Example:
        key, _, side = name.rpartition("-")
        entry = mapping[key]
        image = read_rgb(data / entry["image"])
        try:
            mask = from_runs(entry[MASKS[side]], (image.shape[0], image.shape[1]))
        except ValueError as error:
            raise invalid(data / MAPPING, f"has a mask in the entry {key} that does not fit {entry['image']}") from error
        return Example(name=name, task=side, image=image, mask=mask, prompt=entry["caption"], wanted={})

    plan = Plan(
        identity={"protocol": "brushbench", "data": str(data), "count": len(keys)},
        names=[f"{key}-{side}" for side in MASKS for key in keys],
        make=make,
        predictions=predictions,
        seed=seed,
    )
    return plan, QualityInstruments(data), f"BrushBench, {len(keys)} pictures, captions of the whole picture as prompts"


class QualityInstruments:
    """BrushBench's measures, of the first prediction: quality and text of the finished picture, the kept part before put-back.

    Args:
        data: Where the head of the aesthetic measure may lie.
    """

    def __init__(self, data: Path) -> None:
        self.notes: list[str] = []
        self.scorer = or_note(quality.load_clip, self.notes, "The CLIP score is left out.")
        self.distance = or_note(quality.load_lpips, self.notes, "LPIPS of the kept part is left out.")
        found = {
            "aesthetic": or_note(
                lambda: quality.load_aesthetic(self.scorer, data), self.notes, "The aesthetic score is left out."
            ),
            "image_reward": or_note(quality.load_image_reward, self.notes, "ImageReward is left out."),
            "hps": or_note(quality.load_hps, self.notes, "HPS is left out."),
        }
        self.measures: dict[str, quality.Measure] = {name: measure for name, measure in found.items() if measure is not None}

    def measure(self, example: Example, made: EditOutputs) -> Measured:
        first, keep = made.predictions[0], np.asarray(example.mask == 0)
        square, decibels = quality.kept_error(made.raw, example.image, keep)
        values: Values = {"mse_kept": 1000 * square, "psnr_kept": decibels}
        if self.distance is not None:
            values["lpips_kept"] = 1000 * quality.kept_lpips(self.distance, made.raw, example.image, keep)
        if self.scorer is not None:
            values["clip_score"] = quality.clip_score(self.scorer, first, example.prompt)
        values |= {name: measure(first, example.prompt) for name, measure in self.measures.items()}
        return Measured(values | surroundings(example, made) | joining(example, made) | cost_values(made.cost))
