"""Prediction i of seed s is prediction 0 of seed s + i: for every method, preset, fill and scheduler."""

import itertools
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sfumato import Editor
from sfumato.backbones import families, loading
from sfumato.backbones.base import Backbone, Conditions, Output, Seen, Text, TextEncoder, Traits
from sfumato.backbones.capabilities import Capability, Layout
from sfumato.methods import registry
from sfumato.methods.augmentation import augment
from sfumato.methods.base import MethodCard
from sfumato.methods.registry import fields_of
from sfumato.methods.sampling.blended_diffusion import clip_distance
from sfumato.noise.levels import Prediction
from sfumato.noise.plan import FLOW_EULER, SOLVERS
from sfumato.noise.stream import NoiseStream
from sfumato.text.limits import TextReader
from sfumato.text.powerpaint import V1, Around, TaskText, TaskWords
from tests import tiny_models

SIDE, SEED, COUNT = 32, 20, 3
FILLS = ("original", "blur", "neutral", "noise")
FEW: dict[str, dict[str, Any]] = {
    "repaint": {"jump_length": 2, "jump_resamples": 2},
    "lanpaint": {"langevin_steps": 2},
    "glide": {"upsample_steps": 3},
    "blended-diffusion": {"clip_augmentations": 2, "background_lpips_weight": 0.0, "clip_model": "embedded"},
}


TRAINED = {
    "inpainting": Capability.INPAINTING,
    "controlnet": Capability.CONTROLNET,
    "brushnet": Capability.BRUSHNET,
    "powerpaint": Capability.POWERPAINT,
    "powerpaint-v2": Capability.POWERPAINT_V2,
    "smartbrush": Capability.SMARTBRUSH,
}
LAYOUTS = {"inpainting": Layout.INPAINTING, "powerpaint": Layout.INPAINTING, "smartbrush": Layout.SMARTBRUSH}


class Exact:
    """A model whose every answer is made for one prediction at a time, so that nothing but what is drawn can differ.

    It plays all roles but the reading of text. Of a kind of `TRAINED` it is an sd1 that reads what such models do.
    """

    vae, device = None, torch.device("cpu")

    def __init__(self, kind: str) -> None:
        family = "sd1" if kind in TRAINED else kind
        known = families.family(family)
        cascade, flows = known.can(Capability.CASCADE), known.can(Capability.FLOW)
        pixel = cascade or known.can(Capability.PIXELS)
        noise = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
        self.factor = 1 if pixel else 2
        self.traits = Traits(
            name="exact",
            family=family,
            capabilities=known.capabilities | ({TRAINED[kind]} if kind in TRAINED else set()),
            layout=LAYOUTS.get(kind, Layout.LATENTS),
            prediction=Prediction.FLOW if flows else Prediction.EPSILON,
            scheduler_config={"shift": 3.0} if flows else noise,
            upsampler={**noise, "prediction_type": "epsilon"} if cascade else None,
            latent_channels=3 if pixel else 4,
            factor=self.factor,
            resolution=SIDE,
            context=2.0,
            device=self.device,
            dtype=torch.float32,
        )
        self.encoded = 0
        self.notes: list[str] = []

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        assert len(pixels) == 1
        self.encoded += 1
        if self.factor == 1:
            return pixels
        code = F.avg_pool2d(pixels, self.factor)
        code = torch.cat([code, code.mean(1, keepdim=True)], 1)
        return code if generator is None else code + 0.5 * torch.randn(code.shape, generator=generator)

    def decode(self, latents: Tensor, seen: Seen | None = None) -> Tensor:
        return F.interpolate(latents[:, :3], scale_factor=self.factor).clamp(-1, 1)

    def preview(self, latents: Tensor) -> Tensor:
        return latents[:, :3].clamp(-1, 1)

    def unscale(self, latents: Tensor) -> Tensor:
        return latents

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        if self.traits.layout is not Layout.LATENTS:
            assert given.channels is not None
            assert len(given.channels) in (1, len(x))
            x = x + 0.1 * given.channels[:, :1] + 0.2 * given.channels[:, 1:]
        elif given.channels is not None:
            x = x + 0.1 * given.channels.sum(1, keepdim=True)
        if given.redirection is not None:
            assert len(given.redirection.mask) in (1, len(x))
            x = x + 0.1 * given.redirection.similarity * given.redirection.mask
        for control in filter(None, given.controls):
            assert len(control.image) in (1, len(x))
            seen = F.avg_pool2d(control.image, control.image.shape[-1] // x.shape[-1]).sum(1, keepdim=True)
            x = x + 0.1 * control.scale[:, None, None, None] * seen
        made = torch.cat([torch.tanh(one.roll(1, -1) + timestep / 1000) + 0.3 * one for one in x.split(1)])
        return Output(made, mask=made[:, :1] - 0.5 if self.traits.layout is Layout.SMARTBRUSH else None)


class Whole(TextReader):
    """Cuts nothing."""

    def dropped(self, text: str) -> str:
        return ""


class Tasks(TaskText):
    """Reads nothing."""

    def __init__(self) -> None:
        super().__init__(encoder=None, words=TaskWords(prompts=V1, embeddings=()))  # type: ignore[arg-type]

    def encode(self, around: Around, *_: Any) -> Tensor:
        return torch.zeros(1, 1, 1)

    def reader(self, around: Around) -> TextReader:
        return Whole("the text encoder", None, 100)


class Reader(TextEncoder):
    """Counts how often it reads."""

    def __init__(self, tasks: TaskText | None = None) -> None:
        self.calls, self.tasks = 0, tasks

    def encode(self, prompts: Sequence[str | None]) -> list[Text]:
        self.calls += 1
        return [Text(states=torch.zeros(1, 1, 1)) for _ in prompts]


def tasks_of(kind: str, tasks: type[Tasks] = Tasks) -> tuple[Tasks | None, Tasks | None]:
    """Words for tasks that a kind's text encoder has, and that its branch has."""
    return tasks() if kind == "powerpaint" else None, tasks() if kind == "powerpaint-v2" else None


def exact(family: str) -> Backbone:
    model = Exact(family)
    own, beside = tasks_of(family)
    reader = Reader(own) if model.traits.can(Capability.TEXT) else None
    return Backbone(denoiser=model, autoencoder=model, text_encoder=reader, branch_tasks=beside)


def task_of(card: MethodCard) -> str:
    """Editing, or what the method does instead."""
    return "edit" if "edit" in card.tasks else next(iter(card.tasks))


def kinds(card: MethodCard) -> list[str]:
    """One of each kind that the method runs on: latents, flow matching, pixels, cascades; or what it was trained for."""
    if trained := [kind for kind, need in TRAINED.items() if need in card.needs]:
        return trained
    return [name for name in ("sd1", "sd3", "pixel", "glide-inpainting") if name in families.able(card.needs)]


def cases() -> Iterator[Any]:
    for card in registry.CARDS:
        for family, preset in itertools.product(kinds(card), card.load().PRESETS):
            fills = FILLS if "fill" in fields_of(card) else (None,)
            blends = getattr(card.load().PRESETS[preset].options, "blend", True)
            soft = (False, True) if blends and "soft_mask" in fields_of(card) else (False,)
            for fill, softly, scheduler in itertools.product(fills, soft, schedulers(card, family, preset)):
                options = {"preset": preset, "fill": fill, "soft_mask": softly, "scheduler": scheduler}
                given = {name: value for name, value in options.items() if value}
                yield pytest.param(card, family, given, id=f"{card.name}-{family}-{'-'.join(map(str, given.values()))}")


def schedulers(card: MethodCard, family: str, preset: str) -> list[str | None]:
    if "scheduler" not in fields_of(card):
        return [None]
    if card.kind == "branch":
        return ["ddim"] if card.load().PRESETS[preset].options.posterior_sample else ["ddim", "unipc", "lcm"]
    if family in LAYOUTS:
        return [solver.name for solver in SOLVERS if solver is not FLOW_EULER]
    if families.family(family).can(Capability.FLOW):
        return [FLOW_EULER.name] if preset in ("default", "ding") or card.name == "lanpaint" else []
    aligned = card.name in ("blended-latent-diffusion", "attentive-eraser") and preset == "default"
    solvers = [solver for solver in SOLVERS if solver is not FLOW_EULER and (aligned or not solver.multistep)]
    return [solver.name for solver in solvers if not (preset == "ding" and solver.draws)]


def picture() -> Image.Image:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    return Image.fromarray(np.stack([x * 7, y * 7, (x + y) * 3], axis=-1).astype(np.uint8))


def mask() -> Image.Image:
    levels = np.zeros((SIDE, SIDE), np.uint8)
    levels[8:24, 8:24], levels[12:20, 12:20] = 128, 255
    return Image.fromarray(levels)


def latents_of(editor: Editor, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Tensor:
    """What the method gives, before decoding, (n, C, h, w)."""
    found: list[Tensor] = []
    autoencoder = editor.backbone.autoencoder
    decode = autoencoder.decode

    def keeping(latents: Tensor, seen: Seen | None = None) -> Tensor:
        found.append(latents.clone())
        return decode(latents, seen)

    with monkeypatch.context() as patched:
        patched.setattr(autoencoder, "decode", keeping)
        editor.edit(image=picture(), mask=mask(), prompt="a red ball", rank="none", window="whole", background="paste", **options)
    return torch.cat(found)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(loading, "from_pipe", lambda pipe, **_: pipe)
    return lambda family: Editor.from_pipe(exact(family))


@pytest.mark.parametrize(("card", "family", "options"), list(cases()))
def test_a_prediction_does_not_depend_on_those_beside_it(
    card: MethodCard, family: str, options: dict[str, Any], fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = fake(family)
    given = {"method": card.name, "task": task_of(card), "steps": 4, **FEW.get(card.name, {}), **options}
    alone = torch.cat([latents_of(editor, monkeypatch, **given, n=1, seed=SEED + i) for i in range(COUNT)])
    for size in (1, 2):  # the last batch of another size than the first
        beside = latents_of(editor, monkeypatch, **given, n=COUNT, seed=SEED, batch_size=size)
        assert torch.equal(beside, alone)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(alone, 2))


def test_views_of_a_picture_do_not_depend_on_the_batch() -> None:
    """To the bit: what half precision makes of a last digit is five levels of 255 after ten steps."""
    pictures = torch.rand(5, 3, 24, 24, generator=torch.Generator().manual_seed(0))

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(len(pictures))]

    together = augment(pictures, 8, generators())
    alone = [augment(one, 8, [generator]) for one, generator in zip(pictures.split(1), generators(), strict=True)]
    assert torch.equal(together, torch.cat(alone, 1))


def test_each_prediction_has_its_own_fill_of_noise(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = fake("sd1")
    monkeypatch.setattr(NoiseStream, "draw", lambda stream: torch.zeros(len(stream.generators), *stream._shape))
    made = latents_of(editor, monkeypatch, fill="noise", n=COUNT, steps=10, start_fraction=0.9)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(made, 2))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("sd1", {"preset": "paper"}),
        ("sd1", {"preset": "official-ldm"}),
        ("inpainting", {"preset": "paper", "method": "blended-latent-diffusion"}),
        ("inpainting", {"posterior_sample": True, "blend": False, "method": "stable-inpainting"}),
        ("inpainting", {"preset": "diffusers", "method": "stable-inpainting"}),
        ("controlnet", {"preset": "official", "method": "controlnet-inpainting"}),
        ("brushnet", {"preset": "official", "method": "brushnet"}),
    ],
)
def test_each_prediction_has_its_own_sample_of_the_posterior(
    kind: str, options: dict[str, Any], fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = fake(kind)
    monkeypatch.setattr(NoiseStream, "draw", lambda stream: torch.zeros(len(stream.generators), *stream._shape))
    made = latents_of(editor, monkeypatch, **options, n=COUNT, steps=4)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(made, 2))


@pytest.mark.parametrize(
    ("options", "calls"),
    [({}, 1), ({"fill": "blur"}, 2), ({"fill": "noise"}, 1 + COUNT), ({"preset": "paper"}, COUNT)],
)
def test_what_is_not_random_is_encoded_once(
    options: dict[str, Any], calls: int, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = fake("sd1")
    latents_of(editor, monkeypatch, **options, n=COUNT, steps=2, batch_size=1)
    assert editor.backbone.autoencoder.encoded == calls


@pytest.mark.parametrize(
    ("card", "family"),
    [(card, family) for card in registry.CARDS for family in kinds(card)],
    ids=lambda value: getattr(value, "name", value),
)
def test_conditions_are_made_once_for_all_batches(
    card: MethodCard, family: str, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor, method = fake(family), card.load()
    made: list[Any] = []
    condition = method.condition

    def counted(models: Any, given: Any) -> Any:
        made.append(given)
        return condition(models, given)

    monkeypatch.setattr(method, "condition", counted)
    latents_of(
        editor, monkeypatch, method=card.name, task=task_of(card), **FEW.get(card.name, {}), n=COUNT, steps=2, batch_size=1
    )
    assert len(made) == 1
    encoder = editor.backbone.text_encoder
    assert encoder is None or encoder.calls == (0 if encoder.tasks else 1)  # which read the prompts of their tasks


def test_clip_reads_each_prediction_by_itself() -> None:
    """Of a larger batch it rounds differently, which guides a prediction to up to three levels of 255 in bfloat16."""
    seen: list[tuple[int, ...]] = []

    class Scorer:
        size, mean, std = (8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

        def features(self, standardised: Tensor) -> Tensor:
            seen.append(tuple(standardised.shape))
            return F.normalize(standardised.mean((2, 3)), dim=-1)

    guide: Any = SimpleNamespace(scorer=Scorer(), text=F.normalize(torch.ones(1, 3), dim=-1))
    pictures = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(3)]

    together = clip_distance(pictures, guide, augment, 4, generators())
    assert seen == [(4, 3, 8, 8)] * 3
    alone = [
        clip_distance(one, guide, augment, 4, [generator]) for one, generator in zip(pictures.split(1), generators(), strict=True)
    ]
    torch.testing.assert_close(together, torch.stack(alone).sum())


@pytest.mark.parametrize("options", [{}, {"fill": "noise"}, {"preset": "paper"}, {"preset": "official-ldm"}], ids=str)
def test_on_real_networks_too(options: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit in batches of one size; convolutions may round a batch of another size differently, in the last digits."""
    editor = Editor(str(tiny_models.tiny_sd1(tmp_path / "sd1")), dtype="float32")
    alone = torch.cat([latents_of(editor, monkeypatch, **options, n=1, steps=3, seed=SEED + i) for i in range(COUNT)])
    apart = latents_of(editor, monkeypatch, **options, n=COUNT, steps=3, seed=SEED, batch_size=1)
    together = latents_of(editor, monkeypatch, **options, n=COUNT, steps=3, seed=SEED)
    assert torch.equal(apart, alone)
    assert (together - alone).abs().max() < 1e-3
