"""EditBench (Imagen Editor, arXiv:2212.06909): 240 pictures, real and generated, with free-form masks and three prompts each.

Its own measure is people's judgement; the CLIP score and CLIP R-precision are the automatic stand-ins that its paper reports.
"""

from pathlib import Path

import numpy as np

from sfumato.bench import quality
from sfumato.bench.measuring import EditOutputs, Measured, Values, cost_values, joining, or_note, surroundings
from sfumato.bench.reading import invalid, read_csv, read_rgb
from sfumato.bench.runner import Plan
from sfumato.bench.tasks import Example
from sfumato.errors import OptionError

PROMPTS = ("mask-rich", "mask-simple", "full")
SETS = ("natural", "generated")
NAME = "aos"  # the column that names the files


def prepare(
    data: Path, prompts: str, *, predictions: int = 1, limit: int | None = None, seed: int = 0
) -> tuple[Plan, "TextInstruments", str]:
    """Plan and instruments; see `protocols.prepare`."""
    if prompts not in PROMPTS:
        raise OptionError(f"Unknown prompts {prompts!r}: choose one of {', '.join(PROMPTS)}.", code="prompts-unknown")
    column = f"prompt_{prompts}"
    tables = {name: data / f"annotations_{name}.csv" for name in SETS if (data / f"annotations_{name}.csv").is_file()}
    if not tables:
        raise invalid(data, f"holds neither annotations_{SETS[0]}.csv nor annotations_{SETS[1]}.csv")
    entries = {
        f"{which}-{row[NAME]}": (which, row[NAME], row[column])
        for which, table in tables.items()
        for row in read_csv(table, (NAME, column))[:limit]
    }

    def make(name: str) -> Example:
        which, file, prompt = entries[name]
        image = read_rgb(data / f"references_{which}" / f"{file}.png")
        mask = read_rgb(data / f"masks_{which}" / f"{file}.png")
        if mask.shape != image.shape:
            raise invalid(data / f"masks_{which}" / f"{file}.png", "has another size than its picture")
        white = (mask[..., 0] > 127).astype(np.uint8)
        return Example(name=name, task=which, image=image, mask=white, prompt=prompt, wanted={})

    plan = Plan(
        identity={"protocol": "editbench", "data": str(data), "prompts": prompts, "count": len(entries)},
        names=list(entries),
        make=make,
        predictions=predictions,
        seed=seed,
    )
    texts = [prompt for _, _, prompt in entries.values()]
    return plan, TextInstruments(texts), f"EditBench, {len(entries)} pictures, prompts {prompts}"


class TextInstruments:
    """CLIP score and R-precision of the first prediction, and what can be measured of any edit.

    Args:
        prompts: All prompts: what a picture must fit less well than its own.
    """

    def __init__(self, prompts: list[str]) -> None:
        self.prompts, self.notes = prompts, list[str]()
        self.scorer = or_note(quality.load_clip, self.notes, "The CLIP score and R-precision are left out.")

    def measure(self, example: Example, made: EditOutputs) -> Measured:
        values: Values = surroundings(example, made) | joining(example, made) | cost_values(made.cost)
        if self.scorer is not None:
            first = made.predictions[0]
            values["clip_score"] = quality.clip_score(self.scorer, first, example.prompt)
            values["clip_r_precision"] = quality.r_precision(self.scorer, first, example.prompt, self.prompts)
        return Measured(values)
