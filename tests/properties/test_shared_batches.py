"""Predictions of different edits in one batch are to the bit those of each edit alone, also when some are cancelled."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato import Editor, EditRequest
from sfumato.backbones import loading
from sfumato.backbones.base import Backbone, Conditions, Output, Text, TextEncoder
from sfumato.backbones.capabilities import Capability
from sfumato.editing.prepared import Prepared
from sfumato.editing.progress import Progress
from sfumato.errors import Cancelled, ResourceError
from sfumato.methods import registry
from sfumato.methods.base import MethodCard
from sfumato.methods.registry import fields_of
from sfumato.text.grammar import Span
from sfumato.text.powerpaint import Around, TaskText
from tests import tiny_flow, tiny_models
from tests.guided import Calling
from tests.properties.test_predictions import FEW, SIDE, Exact, Tasks, kinds, schedulers, task_of, tasks_of

NATIVE = loading.choose_dtype(torch.device("cpu")) is torch.bfloat16  # else it is emulated, and takes minutes
DTYPES = ["float32", pytest.param("bfloat16", marks=() if NATIVE else pytest.mark.slow)]
EDITS: tuple[dict[str, Any], ...] = (
    {"prompt": "a red ball", "seed": 3, "n": 2, "fill": "noise"},
    {"prompt": "a blue cube", "seed": 4, "n": 1, "negative_prompt": "grass", "background": "poisson"},
    {"prompt": "the red cube on grass", "seed": 3, "n": 3, "rank": "whole"},
)


class Reading(Exact):
    """One whose answer depends on the prompt, too, and that counts the rows of its calls."""

    def __init__(self, family: str) -> None:
        super().__init__(family)
        self.rows: list[int] = []

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        self.rows.append(len(x))
        shift = torch.zeros(1, 1, 1) if given.text is None else given.text.states
        assert len(shift) in (1, len(x))
        made = super().__call__(x, timestep, given)
        return replace(made, prediction=made.prediction + shift[..., None])


class Lengths(TextEncoder):
    """Tells prompts apart by their length."""

    def __init__(self, tasks: TaskText | None = None) -> None:
        self.tasks = tasks

    def encode(self, prompts: Sequence[str | None]) -> list[Text]:
        return [Text(states=torch.tensor([[[len(prompt or "") / 30]]])) for prompt in prompts]


class LengthTasks(Tasks):
    """The same with what a task says around them."""

    def encode(self, around: Around, parts: Sequence[Sequence[Span]] = (), *_: Any) -> Tensor:
        said = around.before + "".join(span.text for part in parts for span in part) + around.after
        return torch.tensor([[[len(said) / 30]]])


def reading_backbone(family: str) -> Backbone:
    model, (own, beside) = Reading(family), tasks_of(family, LengthTasks)
    reader = Lengths(own) if model.traits.can(Capability.TEXT) else None
    return Backbone(denoiser=model, autoencoder=model, text_encoder=reader, branch_tasks=beside)


def picture(number: int, side: int = SIDE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (side, side, 3), np.uint8))


def mask(number: int, soft: bool, side: int = SIDE) -> Image.Image:
    levels = np.zeros((side, side), np.uint8)
    levels[6 + number : 20, 8 : 22 + number] = 255
    if soft:
        levels[10:16, 10:14] = 90 + 40 * number
    return Image.fromarray(levels)


def requests(soft: bool = False, side: int = SIDE, **options: Any) -> list[EditRequest]:
    """Three edits that differ in all that may differ in one batch."""
    given = {"rank": "none", "window": "whole", "background": "paste", "soft_mask": soft, **options}
    edits = [{**given, **own} for own in EDITS]
    if "fill" in options:
        edits = [{**edit, "fill": options["fill"]} for edit in edits]
    return [EditRequest(image=picture(i, side), mask=mask(i, soft, side), **edit) for i, edit in enumerate(edits)]


def latents_of(editor: Editor, edits: Sequence[Prepared]) -> list[Tensor]:
    """Of all windows of each edit, sampled together."""
    made = list(editor.sample([sample for edit in edits for sample in edit.samples]))
    return [torch.cat([part.latents for part in made if part.window.edit is edit]) for edit in edits]


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Editor]:
    monkeypatch.setattr(loading, "from_pipe", lambda pipe, **_: pipe)
    return lambda family: Editor.from_pipe(reading_backbone(family))


def cases() -> list[Any]:
    found = []
    for card in (card for card in registry.CARDS if not card.guided):
        for family in kinds(card):
            for preset in card.load().PRESETS:
                for scheduler in schedulers(card, family, preset):
                    given: dict[str, Any] = {"preset": preset, **({"scheduler": scheduler} if scheduler else {})}
                    if "fill" not in fields_of(card):
                        given["fill"] = None
                    name = f"{card.name}-{family}-{preset}-{scheduler}"
                    found.append(pytest.param(card, family, given, id=name))
    return found


@pytest.mark.parametrize(("card", "family", "options"), cases())
def test_edits_in_one_batch_are_as_alone(
    card: MethodCard, family: str, options: dict[str, Any], reading: Callable[[str], Editor]
) -> None:
    editor = reading(family)
    backbone: Any = editor.backbone.denoiser
    few = FEW.get(card.name, {})
    for soft, shrink in ((False, "off"), (True, "off"), (True, "on")):
        own: dict[str, Any] = {"shrink": shrink} if "shrink" in fields_of(card) else {}
        if soft and ("soft_mask" not in fields_of(card) or not own):
            continue
        given = requests(soft, method=card.name, task=task_of(card), steps=4, **few, **options, **own)
        if "negative_prompt" not in fields_of(card) or family == "pixel":
            given = [request.model_copy(update={"negative_prompt": None}) for request in given]
        alone = [latents_of(editor, [editor.prepare(request)])[0] for request in given]
        backbone.rows.clear()
        edits = [editor.prepare(request) for request in given]
        together = latents_of(editor, edits)
        assert len({edit.keys for edit in edits}) == 1
        assert set(backbone.rows) <= {6, 12}  # all in one batch
        for one, other in zip(together, alone, strict=True):
            assert torch.equal(one, other)
        assert not any(torch.equal(together[0][0], row) for row in torch.cat(together[1:]))


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 5},
        {"scheduler": "euler"},
        {"guidance_scale": 3.0},
        {"start_fraction": 0.5},
        {"preset": "paper"},
        {"shrink": "on"},
        {"method": "repaint", "fill": None, "shrink": "auto", "scheduler": None},
        {"image": picture(1).resize((SIDE, 9 * SIDE)), "mask": mask(1, False).resize((SIDE, 9 * SIDE))},  # other cells
    ],
    ids="-".join,
)
def test_what_must_be_equal_in_a_batch_keeps_edits_apart(change: dict[str, Any], reading: Callable[[str], Editor]) -> None:
    editor = reading("sd1")
    backbone: Any = editor.backbone.denoiser
    plain = requests(steps=4, fill=None, shrink="off")
    given = [plain[0], plain[1].model_copy(update=change)]
    alone = [latents_of(editor, [editor.prepare(request)])[0] for request in given]
    apart = list(backbone.rows)
    backbone.rows.clear()
    edits = [editor.prepare(request) for request in given]
    assert edits[0].keys != edits[1].keys
    together = latents_of(editor, edits)
    assert backbone.rows == apart
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))


@pytest.mark.parametrize("solver", ["ddim", "dpm++", "unipc", "euler", "lcm"])
@pytest.mark.parametrize("who", [0, 1, 2])
def test_a_cancelled_edit_leaves_the_batch_and_the_others_lose_nothing(
    solver: str, who: int, reading: Callable[[str], Editor]
) -> None:
    editor = reading("sd1")
    backbone: Any = editor.backbone.denoiser
    given = requests(steps=6, scheduler=solver, fill=None, shrink="off")
    alone = [latents_of(editor, [editor.prepare(request)])[0] for request in given]
    backbone.rows.clear()
    seen: list[int] = []

    def stop(progress: Progress) -> None:
        if progress.stage == "denoise":
            seen.append(progress.step)
            if progress.step == 2:
                raise Cancelled("Stopped.")

    edits = [editor.prepare(request, on_progress=stop if i == who else None) for i, request in enumerate(given)]
    made = list(editor.sample([sample for edit in edits for sample in edit.samples]))
    assert seen == [1, 2]
    assert isinstance(edits[who].failure, Cancelled)
    assert [part.window.edit for part in made] == [edit for i, edit in enumerate(edits) if i != who]
    for part in made:
        assert torch.equal(part.latents, alone[edits.index(part.window.edit)])
    gone = 2 * given[who].n
    assert backbone.rows == [12, 12] + [12 - gone] * (len(backbone.rows) - 2)


def test_a_batch_that_everybody_left_ends(reading: Callable[[str], Editor]) -> None:
    editor = reading("sd1")

    def stop(progress: Progress) -> None:
        if progress.stage == "denoise":
            raise Cancelled("Stopped.")

    edits = [editor.prepare(request, on_progress=stop) for request in requests(steps=6, fill=None)]
    with pytest.raises(Cancelled):
        list(editor.sample([sample for edit in edits for sample in edit.samples]))
    assert len(editor.backbone.denoiser.rows) == 1  # type: ignore[attr-defined]


def test_a_batch_of_many_edits_is_halved_too(reading: Callable[[str], Editor]) -> None:
    editor = reading("sd1")
    given = requests(steps=3, fill=None)
    alone = [latents_of(editor, [editor.prepare(request)])[0] for request in given]

    def limited(denoiser: Any, x: Tensor, *rest: Any) -> Any:
        if len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return denoiser(x, *rest)

    editor.accelerators = (Calling(limited),)
    edits = [editor.prepare(request) for request in given]
    together = latents_of(editor, edits)
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))
    assert all(any("Memory ran out" in note for note in edit.windows[0].notes) for edit in edits)
    editor.accelerators = (Calling(lambda denoiser, x, *rest: limited(denoiser, torch.zeros(9, 1))),)
    with pytest.raises(ResourceError):
        latents_of(editor, [editor.prepare(request) for request in given])


def counted(editor: Editor) -> list[int]:
    """Gets the size of every batch that the network is given from now on."""
    calls: list[int] = []

    def count(denoiser: Any, x: Tensor, *rest: Any) -> Any:
        calls.append(len(x))
        return denoiser(x, *rest)

    editor.accelerators = (Calling(count),)
    return calls


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_pixels_on_the_model_that_ships(dtype: str) -> None:
    """Soft masks and hard ones, decoded, restored and ranked."""
    editor = Editor(dtype=dtype)
    given = requests(soft=True, side=96, steps=4, shrink="off", fill="original")
    given[1] = given[1].model_copy(update={"soft_mask": False})
    alone = [editor.edit(request) for request in given]
    edits = [editor.prepare(request) for request in given]
    calls = counted(editor)
    made = list(editor.sample([sample for edit in edits for sample in edit.samples]))
    together = [editor.finish(edit, [part for part in made if part.window.edit is edit]) for edit in edits]
    assert set(calls) <= {6, 12}
    for one, other in zip(together, alone, strict=True):
        assert (one.seeds, one.request, one.notes, one.facts) == (other.seeds, other.request, other.notes, other.facts)
        assert {"load", "encode", "denoise", "background", "rank"} <= set(one.timings)
        for a, b in zip(one.images, other.images, strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model", ["sd1", "sdxl", "sd3"])
def test_what_stands_beside_a_prediction_does_not_matter(model: str, dtype: str, tmp_path: Path) -> None:
    """To the bit in batches of one size, of which the others are the same edit or other ones; in other sizes networks round."""
    tiny = {"sd1": tiny_models.tiny_sd1, "sdxl": tiny_models.tiny_sdxl, "sd3": tiny_flow.tiny_sd3}
    editor = Editor(str(tiny[model](tmp_path / model)), dtype=dtype)
    given = requests(soft=True, steps=4, shrink="off")
    beside_itself = [latents_of(editor, [editor.prepare(request.model_copy(update={"n": 6}))])[0] for request in given]
    calls = counted(editor)
    together = latents_of(editor, [editor.prepare(request) for request in given])
    assert set(calls) <= {6, 12}
    for one, other in zip(together, beside_itself, strict=True):
        assert torch.equal(one, other[: len(one)])
