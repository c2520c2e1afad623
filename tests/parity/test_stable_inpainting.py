"""Nine-channel inpainting: against diffusers' pipelines, the UNet's inputs included, and against Blended Latent Diffusion.

Tiny random components of the real classes, float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato import Editor, EditRequest
from sfumato.backbones import loading
from sfumato.backbones.base import Backbone
from sfumato.backbones.unet import UNet
from sfumato.denoising.base import Model, Pair
from sfumato.denoising.guidance import guidance_of
from sfumato.denoising.prompts import Texts
from sfumato.methods.base import EditInputs, EditTask, Sampling
from sfumato.methods.finetuned import stable_inpainting
from sfumato.methods.finetuned.stable_inpainting import PRESETS, Options
from sfumato.methods.sampling import blended_latent_diffusion
from sfumato.noise.stream import NoiseStream
from sfumato.pictures.tensors import to_tensor
from tests import tiny_models
from tests.parity.reference import TOLERANCE, silent

SIDE, CELLS, STEPS, SCALE, SEED = 32, 16, 5, 4.0, 11
PROMPT, NEGATIVE = "a red ball", "blue"
BUILDERS = {"sd1": tiny_models.tiny_inpainting, "sdxl": tiny_models.tiny_inpainting_xl}
PIPELINES = {"sd1": diffusers.StableDiffusionInpaintPipeline, "sdxl": diffusers.StableDiffusionXLInpaintPipeline}
SCHEDULERS = {"ddim": diffusers.DDIMScheduler, "euler": diffusers.EulerDiscreteScheduler}
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("inpainting")
    return {kind: build(home / kind) for kind, build in BUILDERS.items()}


@pytest.fixture(scope="module")
def pipes(folders: dict[str, Path]) -> dict[str, Any]:
    made = {kind: PIPELINES[kind].from_pretrained(folder) for kind, folder in folders.items()}
    for pipe in made.values():
        pipe.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def backbones(folders: dict[str, Path]) -> dict[str, Backbone]:
    return {kind: loading.load(str(folder), device="cpu", dtype="float32") for kind, folder in folders.items()}


def picture(side: int = SIDE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (side, side, 3), dtype=np.uint8))


def mask(side: int = SIDE) -> Image.Image:
    """With sides on odd pixels, which latent cells of two pixels divide."""
    levels = np.zeros((side, side), np.uint8)
    levels[7 : side - 11, 9 : side - 7] = 255
    return Image.fromarray(levels)


@contextmanager
def inputs_of(unet: Any) -> Iterator[list[Tensor]]:
    """The first argument of every call of a UNet."""
    seen: list[Tensor] = []
    handle = unet.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    try:
        yield seen
    finally:
        handle.remove()


def scheduled(pipe: Any, scheduler: str) -> Any:
    pipe.scheduler = SCHEDULERS[scheduler].from_config(pipe.scheduler.config)
    return pipe


def published(pipe: Any, strength: float, generator: torch.Generator, side: int = SIDE) -> Tensor:
    """Latents that a pipeline makes."""
    sizes: dict[str, Any] = {"height": side, "width": side, "num_inference_steps": STEPS, "guidance_scale": SCALE}
    pictures: dict[str, Any] = {"image": picture(side), "mask_image": mask(side), "strength": strength}
    latents: Tensor = pipe(
        PROMPT, negative_prompt=NEGATIVE, generator=generator, output_type="latent", **pictures, **sizes
    ).images
    return latents


class Given:
    """Noise that was drawn before."""

    def __init__(self, eps: Tensor) -> None:
        self.eps, self.generators = eps, [torch.Generator().manual_seed(0)]

    def draw(self) -> Tensor:
        return self.eps


def edit_inputs(options: Any, generator: torch.Generator | None = None, **changes: Any) -> EditInputs[Any]:
    hole = torch.from_numpy(np.asarray(mask()).astype(np.float32) / 255)[None, None]
    given: dict[str, Any] = {
        "pixels": to_tensor(np.asarray(picture())),
        "mask_pixels": hole,
        "mask_latent": torch.nn.functional.max_pool2d(hole, 2),
        "texts": Texts(prompt=PROMPT, negative=NEGATIVE, words=PROMPT),
    }
    return EditInputs(options=options, generator=generator, **given | changes)


def make(
    method: Any,
    backbone: Backbone,
    options: Any,
    scheduler: str,
    start: float,
    generator: torch.Generator,
    **changes: Any,
) -> Tensor:
    """Latents of a method of ours, with everything drawn from one generator, in the pipelines' order."""
    plan = method.plan(backbone.traits, Sampling(scheduler=scheduler, steps=STEPS, start_fraction=start), options)
    sampled = options.posterior_sample
    inputs = edit_inputs(options, **changes)
    draws = generator if sampled and start else None
    source = backbone.autoencoder.encode(inputs.pixels, draws)
    eps = torch.randn((1, 4, CELLS, CELLS), generator=generator)
    pair: Pair = method.condition(backbone, replace(inputs, generator=generator if sampled else None))
    task = EditTask(source=source, start=source, mask=inputs.mask_latent, seeds=(0,), plan=plan, options=options)
    model = Model(denoiser=backbone.denoiser, pair=pair, guidance=guidance_of(backbone.traits, SCALE))
    made: Tensor = method.run(model, task, silent, Given(eps))
    return made


def unet_of(backbone: Backbone) -> Any:
    assert isinstance(backbone.denoiser, UNet)
    return backbone.denoiser.unet


@pytest.mark.parametrize("strength", [1.0, 0.9999, 0.5])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("kind", BUILDERS)
def test_the_diffusers_presets_are_the_pipelines(
    kind: str, scheduler: str, strength: float, pipes: dict[str, Any], backbones: dict[str, Backbone]
) -> None:
    pipe, backbone = scheduled(pipes[kind], scheduler), backbones[kind]
    with inputs_of(pipe.unet) as theirs:
        expected = published(pipe, strength, torch.Generator().manual_seed(SEED))
    options = PRESETS["diffusers" if kind == "sd1" else "diffusers-xl"].options
    with inputs_of(unet_of(backbone)) as ours:
        made = make(stable_inpainting, backbone, options, scheduler, 1 - strength, torch.Generator().manual_seed(SEED))
    assert len(ours) == len(theirs) == int(STEPS * strength)
    assert ours[0].shape == (2, 9, CELLS, CELLS)
    for own, other in zip(ours, theirs, strict=True):
        assert (own - other).abs().max() < TOLERANCE
        assert (own[:, 4:] - other[:, 4:]).abs().max() < 1e-6
        assert torch.equal(own[:, 4:], ours[0][:, 4:])  # Euler scales the latents alone
    assert (made - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize(("kind", "scheduler"), [("sd1", "ddim"), ("sdxl", "euler")])
def test_a_seed_gives_the_pipelines_latents(kind: str, scheduler: str, pipes: dict[str, Any]) -> None:
    pipe = scheduled(pipes[kind], scheduler)
    expected = [published(pipe, 1.0, torch.Generator().manual_seed(SEED + i), side=64) for i in range(2)]
    editor = Editor.from_pipe(pipe)
    request = EditRequest(
        image=picture(64),  # an edit's pictures are of multiples of 64
        mask=mask(64),
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        preset="diffusers",
        guard=False,
        window="whole",
        n=2,
        seed=SEED,
        steps=STEPS,
        guidance_scale=SCALE,
        scheduler=scheduler,
        start_fraction=0.0,
    )
    prepared = editor.prepare(request)
    assert prepared.card.name == "stable-inpainting"  # what a model that was trained for it runs
    made = torch.cat([part.latents for part in editor.sample(prepared.samples)])
    assert (made - torch.cat(expected)).abs().max() < TOLERANCE


@pytest.mark.parametrize("steps", [1, 4, 25, 50])
@pytest.mark.parametrize("strength", [0.1, 0.5, 0.9999, 1.0])
def test_a_strength_starts_where_the_pipeline_does(
    steps: int, strength: float, pipes: dict[str, Any], backbones: dict[str, Backbone]
) -> None:
    pipe = scheduled(pipes["sd1"], "ddim")
    pipe.scheduler.set_timesteps(steps)
    expected = pipe.get_timesteps(steps, strength, "cpu")[0].tolist()
    sampling = Sampling(scheduler="ddim", steps=steps, start_fraction=1 - strength)
    plan = stable_inpainting.plan(backbones["sd1"].traits, sampling, PRESETS["diffusers"].options)
    made = [step.timestep for step in plan.run]
    assert made == (expected or [plan.steps[-1].timestep])  # where theirs would run no step


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "unipc", "euler", "lcm"])
@pytest.mark.parametrize("start_fraction", [0.0, 0.4])
def test_with_blending_it_is_blended_latent_diffusion_on_the_same_model(
    scheduler: str, start_fraction: float, backbones: dict[str, Backbone]
) -> None:
    grey = torch.linspace(0, 1, CELLS).expand(1, 1, CELLS, CELLS)  # a soft mask
    own, other = Options(init="source"), blended_latent_diffusion.PRESETS["default"].options
    soft: dict[str, Any] = {"mask_latent": grey}
    for changes in ({}, soft):
        rest = (scheduler, start_fraction)
        made = make(stable_inpainting, backbones["sd1"], own, *rest, torch.Generator().manual_seed(1), **changes)
        expected = make(blended_latent_diffusion, backbones["sd1"], other, *rest, torch.Generator().manual_seed(1), **changes)
        assert torch.equal(made, expected)


def test_freecond_changes_what_the_model_sees_half_way(backbones: dict[str, Backbone]) -> None:
    options = PRESETS["freecond"].options
    with inputs_of(unet_of(backbones["sd1"])) as plain:
        make(stable_inpainting, backbones["sd1"], Options(), "ddim", 0.0, torch.Generator().manual_seed(1))
    with inputs_of(unet_of(backbones["sd1"])) as seen:
        make(stable_inpainting, backbones["sd1"], options, "ddim", 0.0, torch.Generator().manual_seed(1))
    hole, code = plain[0][:, 4:5], plain[0][:, 5:]
    spectrum = np.fft.fft2(code.numpy())
    for axis in (-2, -1):  # of frequencies -8 to 7, those below 6 = 0.75 * 8 stay
        far = np.abs(np.fft.fftfreq(CELLS, 1 / CELLS)) >= 6
        spectrum = np.where(np.expand_dims(far, -1 if axis == -2 else 0), 0, spectrum)
    low = torch.from_numpy(np.fft.ifft2(spectrum).real).float()
    for early in seen[:3]:  # the third of five steps begins before the half
        assert torch.equal(early[:, 4:5], hole)
        assert (early[:, 5:] - low).abs().max() < 1e-5
    for late in seen[3:]:
        assert (late[:, 4:5] - torch.where(hole == 1, 1.5, 0.2)).abs().max() < 1e-6
        assert torch.equal(late[:, 5:], code)
    assert (low - code).abs().max() > 0.01


def test_a_zero_extended_base_makes_the_bases_pictures(tmp_path: Path) -> None:
    base = loading.load(str(tiny_models.tiny_sd1(tmp_path / "base")), device="cpu", dtype="float32")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "base")
    wide = tiny_models.tiny_unet(in_channels=9)
    weights = pipe.unet.state_dict()
    weights["conv_in.weight"] = torch.cat([weights["conv_in.weight"], torch.zeros(32, 5, 3, 3)], dim=1)
    wide.load_state_dict(weights)
    pipe.unet = wide
    extended = loading.from_pipe(pipe)
    made = make(stable_inpainting, extended, Options(init="source"), "ddim", 0.2, torch.Generator().manual_seed(1))
    options = blended_latent_diffusion.PRESETS["default"].options
    expected = make(blended_latent_diffusion, base, options, "ddim", 0.2, torch.Generator().manual_seed(1))
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


def test_it_starts_from_noise_alone_unless_steps_are_skipped(backbones: dict[str, Backbone]) -> None:
    hidden = edit_inputs(Options()).pixels.clone()
    hidden[..., 7:21, 9:25] = torch.rand(14, 16)
    for fraction, same in ((0.0, True), (0.4, False)):
        runs = []
        for changes in ({}, {"pixels": hidden}):
            with inputs_of(unet_of(backbones["sd1"])) as seen:
                options = Options(blend=False)
                make(stable_inpainting, backbones["sd1"], options, "euler", fraction, torch.Generator().manual_seed(1), **changes)
            runs.append(torch.stack(seen))
        assert torch.equal(*runs) is same
        assert torch.equal(runs[0][:, :, 4:], runs[1][:, :, 4:])


def test_noise_of_a_seed_is_the_first_that_is_drawn() -> None:
    """On which the order of the pipelines' draws rests."""
    first = torch.randn((1, 4, CELLS, CELLS), generator=torch.Generator().manual_seed(SEED))
    assert torch.equal(NoiseStream((SEED,), (4, CELLS, CELLS)).draw(), first)
