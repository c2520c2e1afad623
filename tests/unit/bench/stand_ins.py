"""What the tests of the benchmark share: an editor and a judge without a model, and a small plan."""

import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from sfumato.bench import runner
from sfumato.bench.counting import Cost
from sfumato.bench.measuring import EditOutputs, SceneInstruments
from sfumato.bench.tasks import Example
from sfumato.bench.variants import Variant, parse
from sfumato.editing.sampling import Latents
from sfumato.embedded.judge import Reading
from sfumato.request import EditRequest

METHOD = "blended-latent-diffusion"
SIZE = (24, 32)  # height, width: not square, so that swapped axes show


class FakeEditor:
    """Paints the masked area in a flat colour; each call of the model is one of a counted backbone."""

    made: ClassVar[list[dict[str, Any]]] = []
    stop_after: ClassVar[int] = sys.maxsize  # calls of `sample`

    def __init__(self, **options: Any) -> None:
        self.options, self.device = options, torch.device("cpu")
        self.backbone = SimpleNamespace(traits=SimpleNamespace(device=self.device))
        self.accelerators: tuple[Any, ...] = ()
        self.sampled = 0

    def edit(self, request: EditRequest) -> Any:
        prepared = self.prepare(request)
        return self.finish(prepared, list(self.sample(prepared.samples)))

    def prepare(self, request: EditRequest) -> Any:
        fields = {name: value for name in request.model_fields_set if (value := getattr(request, name)) is not None}
        self.made.append(fields)
        window = SimpleNamespace(index=0, kept=list(range(request.n)))
        return SimpleNamespace(fields=fields, windows=[window], samples=[(window, fields)])

    def sample(self, samples: list[Any]) -> Iterator[Latents]:
        """The seeds as latents."""
        for window, fields in samples:
            self.sampled += 1
            if self.sampled > self.stop_after:
                raise KeyboardInterrupt
            for counter in self.accelerators:
                counter.calls += fields.get("steps") or 3
            seeds = [fields["seed"] + i for i in window.kept]
            yield Latents(window=window, latents=torch.tensor(seeds).reshape(-1, 1, 1, 1))

    def finish(self, prepared: Any, made: list[Latents]) -> Any:
        fields, seeds = prepared.fields, [int(seed) for part in made for seed in part.latents]
        assert seeds == [fields["seed"] + i for i in range(fields["n"])]
        seeds.reverse()  # best first: the last one, so that no place is right by chance
        source = np.asarray(fields["image"])
        if "expand" in fields:
            left, top, right, bottom = fields["expand"]
            around = ((top, bottom), (left, right))
            mask = np.pad(np.zeros(source.shape[:2], bool), around, constant_values=True)
            source = np.pad(source, (*around, (0, 0)))
        else:
            mask = np.asarray(fields["mask"]) > 0
        images = []
        for seed in seeds:
            painted = np.where(mask[..., None], np.uint8(seed % 200), source)
            images.append(Image.fromarray(painted if fields.get("keep_unmasked", True) else painted ^ np.uint8(1)))
        return SimpleNamespace(images=images, seeds=seeds, facts={"windows": [[0, 0, 8, 8]]})


def tiny_plan(count: int = 3, make: Callable[[str], Example] | None = None) -> runner.Plan:
    def build(name: str) -> Example:
        mask = np.zeros((16, 16), np.uint8)
        mask[4:12, 4:12] = 1
        image = np.random.default_rng(int(name[-1])).integers(0, 255, (16, 16, 3), np.uint8)
        return Example(name=name, task="add", image=image, mask=mask, prompt="a red ball", wanted={"kind": "ball"}, truth=image)

    names = [f"add-{i}" for i in range(count)]
    return runner.Plan(identity={"protocol": "test", "count": count}, names=names, make=make or build, predictions=2)


class Parity:
    """Reads a ball where the first masked pixel is even."""

    def read(self, images: np.ndarray, masks: np.ndarray) -> list[Reading]:
        kinds = ["ball" if image[mask][0, 0] % 2 == 0 else "cube" for image, mask in zip(images, masks, strict=True)]
        return [Reading(kind=kind, colour="", material="", ground="", probabilities={}) for kind in kinds]


def instruments() -> SceneInstruments:
    return SceneInstruments(Parity(), None, None, ["nothing else is measured"])


def variants(*texts: str) -> list[Variant]:
    return [parse(text, "embedded", METHOD) for text in texts]


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (*SIZE, 3), np.uint8)


def rectangle() -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[3:9, 17:29] = 1
    return mask


def made(image: np.ndarray, raw: np.ndarray | None = None, n: int = 1) -> EditOutputs:
    cost = Cost(model_calls=2, seconds=0.5, peak_memory_mb=9)
    return EditOutputs(
        predictions=[image] * n, raw=image if raw is None else raw, seen=np.ones(SIZE, bool), seeds=list(range(n)), cost=cost
    )
