"""The paper's protocol: random rectangles, class names as prompts, precision by an ImageNet classifier, diversity by LPIPS.

Blended Latent Diffusion (arXiv:2206.02779), section 5. The paper's evaluation code was not published and it does not name its
classifier, so that is a parameter; a prediction is right when the class is among the first five of the crop.
"""

import difflib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from sfumato.bench.measuring import EditOutputs, Measured, cost_values, joining, or_note, precision_values, surroundings
from sfumato.bench.reading import invalid, read_csv, read_rgb
from sfumato.bench.runner import Plan
from sfumato.bench.tasks import Example
from sfumato.embedded.judge import Judge
from sfumato.errors import ModelNotFound, OptionError
from sfumato.masks.reading import Mask
from sfumato.masks.window import bounding_box
from sfumato.metrics.diversity import Distance, best_distance, pairwise
from sfumato.metrics.text_match import text_match
from sfumato.perception.clip import Scorer, load_scorer

CLASSIFIER = "google/efficientnet-b7"
PAPER_CLIP = "openai/clip-vit-base-patch16"
PREDICTIONS = 24
FIRST = 5
LEAST_SIDE, MOST_SIDE = 1 / 5, 1 / 2  # of the rectangle, in sides of the picture
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
LABELS = "labels.csv"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Classifier:
    """An image classifier in transformers' format, safetensors only.

    Args:
        name: Folder or cached id.

    Raises:
        ModelNotFound: model-not-cached.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoModelForImageClassification

        try:
            self.model: Any = AutoModelForImageClassification.from_pretrained(name, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise ModelNotFound(
                f"The classifier {name} is neither a complete folder nor cached; fetch it with: sfumato models pull {name}",
                code="model-not-cached",
            ) from error
        self.model.eval()
        self.names: dict[int, str] = {int(key): value for key, value in self.model.config.id2label.items()}
        self.side, self.mean, self.std = _preprocessing(name, getattr(self.model.config, "image_size", 224))

    def place_of(self, label: str) -> int:
        """Number of a class by its name or one of its synonyms.

        Raises:
            OptionError: label-unknown, listing the nearest names.
        """
        wanted = label.strip().lower()
        known = {part.strip().lower(): place for place, name in self.names.items() for part in (name, *name.split(","))}
        if wanted not in known:
            near = difflib.get_close_matches(wanted, known, 4) or sorted(known)[:4]
            raise OptionError(f"The classifier has no class {label!r}; the nearest are: {', '.join(near)}.", code="label-unknown")
        return known[wanted]

    @torch.inference_mode()
    def first(self, crops: Sequence[NDArray[np.uint8]], count: int = FIRST) -> list[list[int]]:
        """The most likely classes of each picture (h, w, 3), in descending order."""
        found = []
        for crop in crops:
            pixels = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1)[None].float() / 255
            pixels = F.interpolate(pixels, (self.side, self.side), mode="bicubic", antialias=True).clamp(0, 1)
            pixels = (pixels - pixels.new_tensor(self.mean).view(3, 1, 1)) / pixels.new_tensor(self.std).view(3, 1, 1)
            logits = self.model(pixel_values=pixels).logits[0]
            found.append([int(i) for i in logits.topk(min(count, len(logits))).indices])
        return found


def _preprocessing(name: str, side: Any) -> tuple[int, Sequence[float], Sequence[float]]:
    from transformers.utils import cached_file

    path = cached_file(name, "preprocessor_config.json", local_files_only=True, _raise_exceptions_for_missing_entries=False)
    settings = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    size = settings.get("crop_size") or settings.get("size") or side
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge") or 224
    return int(size), settings.get("image_mean", MEAN), settings.get("image_std", STD)


def prepare(
    data: Path, classifier: str, *, predictions: int = PREDICTIONS, limit: int | None = None, seed: int = 0
) -> tuple[Plan, "PaperInstruments", str]:
    """Plan and instruments; see `protocols.prepare`."""
    reader = Classifier(classifier)
    entries = dict(list(_entries(data).items())[:limit])
    for label, *_ in entries.values():
        reader.place_of(label)  # before hours are spent
    instruments = PaperInstruments.load(reader)
    ranked = {"rank": "region"} if instruments.scorer is not None else {}  # the paper's ranking, where its CLIP is installed

    def make(name: str) -> Example:
        label, path, box = entries[name]
        image = read_rgb(path)
        mask = _boxed(box, image.shape[:2], path) if box else _rectangle(image.shape[:2], name)
        return Example(name=name, task="paper", image=image, mask=mask, prompt=label, wanted={"class": label}, fields=ranked)

    plan = Plan(
        identity={"protocol": "paper", "data": str(data), "classifier": classifier, "count": len(entries)},
        names=list(entries),
        make=make,
        predictions=predictions,
        seed=seed,
    )
    about = f"the paper's protocol on {len(entries)} pictures; right: among the first {FIRST} of {classifier}"
    return plan, instruments, about


def _entries(data: Path) -> dict[str, tuple[str, Path, str]]:
    """Example's name to label, picture and box ("" for a random one), from labels.csv or from one folder per class."""
    if (data / LABELS).is_file():
        rows = read_csv(data / LABELS, ("file", "label"))
        found = [(row["label"], data / row["file"], row.get("box") or "") for row in rows]
    elif data.is_dir():
        files = sorted(path for path in data.glob("*/*") if path.suffix.lower() in PICTURES)
        found = [(path.parent.name.replace("_", " "), path, "") for path in files]
    else:
        raise invalid(data, "is not a folder")
    missing = next((path for _, path, _ in found if not path.is_file()), None)
    if missing is not None:
        raise invalid(missing, "is not there")
    if not found:
        raise invalid(data, f"holds neither {LABELS} nor one folder of pictures per class")
    return {f"paper-{i:04d}": entry for i, entry in enumerate(found)}


def _rectangle(shape: tuple[int, ...], name: str) -> Mask:
    """A random rectangle, each side a fifth to a half of the picture's; the same for the same name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    (y, height), (x, width) = ((int(rng.integers(0, side - part + 1)), part) for side in shape for part in [_part(side, rng)])
    mask = np.zeros(shape, np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


def _part(side: int, rng: np.random.Generator) -> int:
    return max(1, round(side * rng.uniform(LEAST_SIDE, MOST_SIDE)))


def _boxed(box: str, shape: tuple[int, ...], path: Path) -> Mask:
    try:
        x, y, width, height = (int(number) for number in box.replace(",", " ").split())
    except ValueError:
        raise invalid(path, f"has the box {box!r} in {LABELS}, which is not x,y,width,height") from None
    if x < 0 or y < 0 or width < 1 or height < 1 or x + width > shape[1] or y + height > shape[0]:
        raise invalid(path, f"has the box {box!r} in {LABELS}, which leaves the picture")
    mask = np.zeros(shape, np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


class PaperInstruments:
    """Precision by a classifier, diversity by LPIPS, and what can be measured of any edit.

    Args:
        classifier: Of the crops.
        scorer: CLIP; None: no text match.
        distance: Of predictions; None: no diversity.
        notes: What is missing.
    """

    def __init__(
        self, classifier: Classifier, scorer: Scorer | None, distance: Distance | None, notes: Sequence[str] = ()
    ) -> None:
        self.classifier, self.scorer, self.distance, self.notes = classifier, scorer, distance, list(notes)

    @classmethod
    def load(cls, classifier: Classifier) -> "PaperInstruments":
        notes: list[str] = []
        scorer = or_note(lambda: load_scorer(PAPER_CLIP), notes, "Text match is left out.")
        distance, reasons = best_distance(Judge.load)
        return cls(classifier, scorer, distance, notes + reasons)

    def measure(self, example: Example, made: EditOutputs) -> Measured:
        """Precision: whether the class is among the first five of the mask's crop. Diversity: of the right predictions."""
        mask, place = example.mask > 0, self.classifier.place_of(example.wanted["class"])
        x, y, width, height = bounding_box(example.mask)
        crops = [picture[y : y + height, x : x + width] for picture in made.predictions]
        classes = self.classifier.first(crops)
        hits = [place in found for found in classes]
        values = surroundings(example, made) | joining(example, made) | cost_values(made.cost) | precision_values(hits)
        if self.scorer is not None:
            values["text_match"] = text_match(self.scorer, made.predictions[:1], mask, example.prompt)[0]
        if self.distance is not None:
            right = [picture for picture, hit in zip(made.predictions, hits, strict=True) if hit]
            values["diversity"] = pairwise(self.distance, right, mask)
        readings = [{"label": self.classifier.names[found[0]], "right": hit} for found, hit in zip(classes, hits, strict=True)]
        return Measured(values, readings)
