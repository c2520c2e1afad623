"""Runner of the benchmark: every example with every variant, one file per finished edit, so that a run can be resumed."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image

from sfumato.backbones.hub import WEIGHTS
from sfumato.backbones.options import LoadOptions
from sfumato.background.registry import BACKGROUNDS
from sfumato.bench.counting import costs
from sfumato.bench.measuring import EditOutputs, Instruments
from sfumato.bench.seeds import example_seeds
from sfumato.bench.suitability import obstacle
from sfumato.bench.tasks import Example
from sfumato.bench.variants import Variant, check_distinct
from sfumato.editing.choice import Choice
from sfumato.editing.prepared import PreparedWindow
from sfumato.editing.sampling import Latents
from sfumato.editor import Editor
from sfumato.errors import OptionError, ResourceError
from sfumato.masks.feather import soft_edge
from sfumato.pictures.writing import write, write_text
from sfumato.request import EditRequest, make_request

RUN, ITEMS = "run.json", "items"
SHOWN = 4  # predictions kept as pictures, best first
SOFT_EDGE = 0.1  # width of a soft mask's edge, relative to the longer side of the picture

OnProgress = Callable[[int, int, str], None]
"""Called before each edit with (edits done, edits in all, what comes now)."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which examples are edited.

    Args:
        identity: What a run that is taken up again must agree with: protocol, tasks, sizes, data.
        names: Of the examples, in order.
        make: An example by its name; called once per name and model.
        predictions: How many, for variants that do not say.
        seed: All seeds follow from it and the examples' names.
    """

    identity: dict[str, Any]
    names: list[str]
    make: Callable[[str], Example]
    predictions: int = 4
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How the editors of variants are made."""

    options: LoadOptions = field(default_factory=LoadOptions)
    make_editor: Callable[..., Editor] = field(default=Editor, repr=False)

    def editor(self, variant: Variant) -> Editor:
        """The editor for a variant, with its model loaded."""
        return self.make_editor(method=variant.method, **choice_of(variant)._asdict(), **vars(self.options))


def choice_of(variant: Variant) -> Choice:
    """What a variant says about what is to be loaded: the model, and what goes with it."""
    fields = {**variant.fields, "model": variant.model}
    return Choice(**{name: fields[name] for name in Choice._fields if name in fields})


def run(
    plan: Plan,
    variants: Sequence[Variant],
    instruments: Instruments,
    out: Path,
    loading: Loading,
    *,
    force: bool = False,
    on_progress: OnProgress = lambda done, total, what: None,
) -> tuple[list[dict[str, Any]], Any]:
    """Run and measure all edits that are not finished yet.

    Variants for which the same is loaded take turns on each example; of the others one model after the other is loaded. What
    a variant's method cannot do is left out, with a note among those of the instruments.

    Args:
        plan: The examples.
        variants: Each is run on all of them.
        instruments: What to measure with.
        out: Folder of the run; a run of the same plan and variants that is there is taken up.
        loading: How to load models.
        force: Start again, even if the folder holds another run.
        on_progress: Called before every edit, with edits done, edits in all and what is next.

    Returns:
        The records of all edits, and the device they were made on (None if all were there already).

    Raises:
        OptionError: bench-other-run, variant-invalid.
        EditError: As the editor; what was finished before stays.
    """
    check_distinct(list(variants))
    _open_run(plan, variants, out, force)
    total, done, device = len(plan.names) * len(variants), 0, None
    seeds = example_seeds(plan.names, plan.seed, max(_predictions(variant, plan) for variant in variants))
    finished = {(i, name): record for i in range(len(variants)) for name in plan.names if (record := _read(out, i, name))}
    needs = [choice_of(variant).for_method(variant.method) for variant in variants]
    for need in dict.fromkeys(needs):
        mine = [i for i, other in enumerate(needs) if other == need]
        editor: Editor | None = None
        for name in plan.names:
            missing = [i for i in mine if (i, name) not in finished]
            done += len(mine) - len(missing)
            if not missing:
                continue
            example = plan.make(name)
            for i in missing:
                if reason := obstacle(example, variants[i]):
                    instruments.notes.append(f"{example.task} is left out for {variants[i].name}: {reason}.")
                    done += 1
                    continue
                if editor is None:
                    on_progress(done, total, f"loading {variants[i].model}")
                    editor = loading.editor(variants[i])
                    device = editor.device
                    editor.edit(_request(example, variants[i], seed=plan.seed, n=1))  # the first edit loads and warms up
                on_progress(done, total, f"{name} {variants[i].name}")
                path = _path(out, i, name)
                finished[i, name] = _one(
                    editor, example, variants[i], (seeds[name], _predictions(variants[i], plan)), instruments, path
                )
                done += 1
    on_progress(total, total, "done")
    if not finished:
        raise OptionError(" ".join(["Nothing was edited.", *dict.fromkeys(instruments.notes)]), code="task-unsupported")
    return [finished[i, name] for i in range(len(variants)) for name in plan.names if (i, name) in finished], device


def _predictions(variant: Variant, plan: Plan) -> int:
    return int(variant.fields.get("n", plan.predictions))


def _one(
    editor: Editor, example: Example, variant: Variant, seed_and_n: tuple[int, int], instruments: Instruments, path: Path
) -> dict[str, Any]:
    """Run, measure and store one edit; the record is written last."""
    seed, n = seed_and_n
    with costs(editor) as cost:
        prepared = editor.prepare(_request(example, variant, seed=seed, n=n))
        latents = list(editor.sample(prepared.samples))
        result = editor.finish(prepared, latents)
    # the first prediction's latents decoded once more, without any pixel of the source pasted around them
    one = {"n": 1, "seed": result.seeds[0], "candidates": None, "rank": "none"}
    again = editor.prepare(_request(example, variant, **one, keep_unmasked=False, background=_unpasted(variant)))
    place = prepared.windows[0].kept.index(result.seeds[0] - seed)
    raw = editor.finish(again, [_of_prediction(place, latents, window) for window in again.windows])
    made = EditOutputs(
        predictions=[_rgb(image) for image in result.images],
        raw=_rgb(raw.images[0]),
        seen=_seen(raw.facts.get("windows"), example.mask.shape),
        seeds=result.seeds,
        cost=cost,
    )
    measured = instruments.measure(example, made)
    record = {
        "name": example.name,
        "task": example.task,
        "variant": variant.name,
        "method": variant.title,
        "model": variant.model,
        "prompt": example.prompt,
        "wanted": dict(example.wanted),
        "seeds": result.seeds,
        "readings": measured.readings,
        "values": measured.values,
        "picture": path.with_suffix(".png").relative_to(path.parents[2]).as_posix(),
    }
    _make_folder(path.parent)
    write(Image.fromarray(np.concatenate(made.predictions[:SHOWN], axis=1)), path.with_suffix(".png"), overwrite=True)
    write_text(json.dumps(record, allow_nan=False), path)
    return record


def _of_prediction(place: int, latents: Sequence[Latents], window: PreparedWindow) -> Latents:
    """What was sampled for the prediction at this place in one window."""
    mine = torch.cat([part.latents for part in latents if part.window.index == window.index])
    return Latents(window=window, latents=mine[place : place + 1])


def _unpasted(variant: Variant) -> str:
    """The variant's background reconstruction if the decoder makes it, else none."""
    background = variant.fields.get("background") or "none"
    return "none" if BACKGROUNDS[background].pastes else background


def _request(example: Example, variant: Variant, **changes: Any) -> EditRequest:
    # captions are plain English, and what others publish on them was made with models that read brackets so
    fields = {"mask_mode": "grey", "prompt_weights": False, **example.fields, **variant.fields, **changes}
    image = Image.fromarray(example.image)
    if example.inner is None:
        given: dict[str, Any] = {"image": image, "mask": _mask(example.mask, soft=fields.get("soft_mask", False))}
    else:  # the editor adds the margins
        left, top, width, height = example.inner
        given = {"image": image.crop((left, top, left + width, top + height))}
    return make_request({**given, "prompt": example.prompt, "model": variant.model, "method": variant.method, **fields})


def _mask(mask: np.ndarray, soft: bool) -> Image.Image:
    """The mask picture: white inside, with a soft edge where the variant uses soft masks."""
    opacity = soft_edge(mask, SOFT_EDGE * max(mask.shape) if soft else 0)
    return Image.fromarray((255 * opacity).round().astype(np.uint8))


def _rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def _seen(windows: Sequence[Sequence[int]] | None, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W), true where the model's windows were; everywhere if they are not known."""
    if windows is None:
        return np.ones(shape, bool)
    seen = np.zeros(shape, bool)
    for left, top, width, height in windows:
        seen[top : top + height, left : left + width] = True
    return seen


def _path(out: Path, variant: int, name: str) -> Path:
    return out / ITEMS / f"v{variant}" / f"{quote(name, safe='')}.json"  # names of other data sets may be anything


def _read(out: Path, variant: int, name: str) -> dict[str, Any] | None:
    """A finished record, if it and its picture are there."""
    path = _path(out, variant, name)
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if path.with_suffix(".png").is_file() else None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"{folder} cannot be made ({error.strerror or error}); choose another --out.", code="output-unwritable"
        ) from error


def _open_run(plan: Plan, variants: Sequence[Variant], out: Path, force: bool) -> None:
    """Begin a run in the folder, or make sure that the one there is the same."""
    if not plan.names:
        raise OptionError("There is nothing to edit: the data holds no examples.", code="data-invalid")
    wanted = json.loads(json.dumps(_identity(plan, variants), default=str))
    path = out / RUN
    if force:
        shutil.rmtree(out / ITEMS, ignore_errors=True)
    elif path.is_file():
        found = _load(path)
        differing = [key for key in wanted if found.get(key) != wanted[key]]
        if differing:
            raise OptionError(
                f"{out} holds a run that differs in {', '.join(differing)}; choose another --out, or --force to start anew.",
                code="bench-other-run",
            )
        return
    _make_folder(out)
    write_text(json.dumps(wanted, indent=1), path)


def _load(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _identity(plan: Plan, variants: Sequence[Variant]) -> dict[str, Any]:
    """Everything that affects the results: only a run with the same identity is resumed."""
    first = plan.make(plan.names[0])
    return {
        **plan.identity,
        "seed": plan.seed,
        "predictions": plan.predictions,
        "variants": [asdict(variant) for variant in variants],
        "first_example": hashlib.sha256(first.image.tobytes() + first.mask.tobytes() + first.prompt.encode()).hexdigest(),
        "weights": _fingerprint(sorted(path for path in WEIGHTS.rglob("*.safetensors"))),
    }


def _fingerprint(paths: Iterable[Path]) -> str:
    """Of the embedded models: their weights may be trained anew."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
