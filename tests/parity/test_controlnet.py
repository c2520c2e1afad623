"""ControlNet inpainting against its two published forms: diffusers' pipeline on tiny random weights, and the authors' demo.

The demo's arithmetic (gradio_inpaint.py of ControlNet 1.1, CompVis' DDIM) is written out below with tables of abar in float64; it
uses neither our code nor a scheduler.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetInpaintPipeline
from torch import Tensor
from torch.nn import functional

from sfumato.backbones import loading
from sfumato.backbones.base import Backbone, Control
from sfumato.denoising.base import Model
from sfumato.denoising.guidance import ClassifierFree
from sfumato.denoising.prompts import Texts
from sfumato.methods.base import EditInputs, EditTask, Sampling
from sfumato.methods.branch import controlnet
from sfumato.methods.branch.controlnet import PRESETS, Options, controlnet_picture
from tests.parity.reference import ABAR, TOLERANCE, Draws, TinyDenoiser, make_task, picture, runner, silent, square
from tests.tiny_models import tiny_controlnet, tiny_inpainting, tiny_sd1

PROMPT, STEPS, SCALE = "a red ball", 8, 4.0
LATENTS, FACTOR = 8, 2
pytestmark = pytest.mark.usefixtures("no_gradients")


class Given:
    """The noise that the pipeline starts from."""

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise

    def draw(self) -> Tensor:
        return self.noise


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("parity")
    return {
        "four channels": tiny_sd1(home / "four"),
        "nine channels": tiny_inpainting(home / "nine"),
        "controlnet": tiny_controlnet(home / "controlnet"),
        "depth": tiny_controlnet(home / "depth", seed=12),
    }


@pytest.fixture(scope="module")
def noise() -> Tensor:
    return torch.randn((2, 4, LATENTS, LATENTS), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def source() -> Tensor:
    side = FACTOR * LATENTS
    return torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(6)) * 2 - 1


@pytest.fixture(scope="module")
def hole() -> Tensor:
    """In pixels, along the latent cells, so that all ways to reduce it agree."""
    return functional.interpolate(square(LATENTS), scale_factor=FACTOR)


@pytest.fixture(scope="module")
def depth(source: Tensor) -> Tensor:
    return torch.rand(source.shape, generator=torch.Generator().manual_seed(8))


def theirs(
    folder: Path, networks: list[Path], noise: Tensor, source: Tensor, hole: Tensor, pictures: list[Tensor], **changes: Any
) -> Tensor:
    """Latents of diffusers' pipeline; it encodes the means of posteriors, so that nothing but the given noise is random."""
    loaded = [ControlNetModel.from_pretrained(network) for network in networks]
    pipe = StableDiffusionControlNetInpaintPipeline.from_pretrained(
        folder, controlnet=loaded if len(loaded) > 1 else loaded[0], safety_checker=None, feature_extractor=None
    )
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe._encode_vae_image = lambda image, generator: pipe.vae.config.scaling_factor * pipe.vae.encode(image).latent_dist.mode()
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        PROMPT,
        image=(source + 1) / 2,
        mask_image=hole,
        control_image=pictures if len(pictures) > 1 else pictures[0],
        num_images_per_prompt=len(noise),
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        latents=noise,
        output_type="latent",
        **changes,
    )
    latents: Tensor = made.images
    return latents


def load(folder: Path, branch: Path, *others: Path) -> Backbone:
    return loading.load(
        str(folder), device="cpu", dtype="float32", branch=str(branch), control_model=[str(other) for other in others]
    )


def ours(
    models: Backbone, noise: Tensor, source: Tensor, hole: Tensor, *, controls: tuple[Control, ...] = (), **changes: Any
) -> Tensor:
    options = Options(timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False, **changes)
    texts = Texts(prompt=PROMPT, negative="", words=PROMPT)
    mask = functional.max_pool2d(hole, FACTOR)
    edit = EditInputs(texts=texts, pixels=source, mask_pixels=hole, mask_latent=mask, options=options, controls=controls)
    clean = models.autoencoder.encode(source)
    task = EditTask(
        source=clean,
        start=clean,
        mask=mask,
        seeds=(0, 1),
        plan=controlnet.plan(models.traits, Sampling(scheduler="ddim", steps=STEPS), options),
        options=options,
    )
    pair = controlnet.condition(models, edit)
    model = Model(denoiser=models.denoiser, pair=pair, guidance=ClassifierFree(scale=SCALE))
    return controlnet.run(model, task, silent, Given(noise))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"branch_scale": 0.5}, {}),  # diffusers' default
        ({"branch_scale": 1.0}, {"controlnet_conditioning_scale": 1.0}),
        ({"branch_start": 0.2, "branch_end": 0.7}, {"control_guidance_start": 0.2, "control_guidance_end": 0.7}),
        ({"guess_mode": True}, {"guess_mode": True}),
    ],
    ids=["scale", "full scale", "window", "guess mode"],
)
def test_four_channels_are_blended_as_in_diffusers(folders, noise, source, hole, changes, named):
    named = {"controlnet_conditioning_scale": changes.get("branch_scale", 1.0)} | named
    picture = controlnet_picture(source, hole)
    expected = theirs(folders["four channels"], [folders["controlnet"]], noise, source, hole, [picture], **named)
    made = ours(load(folders["four channels"], folders["controlnet"]), noise, source, hole, **changes)
    assert (made - expected).abs().max() < TOLERANCE
    without = ours(load(folders["four channels"], folders["controlnet"]), noise, source, hole, branch_scale=0)
    assert (made - without).abs().max() > 100 * TOLERANCE  # else the parity would prove nothing


def test_nine_channels_are_not_blended_in_diffusers(folders, noise, source, hole):
    picture = controlnet_picture(source, hole)
    named = {"controlnet_conditioning_scale": 1.0}
    expected = theirs(folders["nine channels"], [folders["controlnet"]], noise, source, hole, [picture], **named)
    made = ours(load(folders["nine channels"], folders["controlnet"]), noise, source, hole, blend=False)
    assert (made - expected).abs().max() < TOLERANCE


def test_two_controlnets_add_up_as_in_diffusers(folders, noise, source, hole, depth):
    picture = controlnet_picture(source, hole)
    networks = [folders["controlnet"], folders["depth"]]
    named = {"controlnet_conditioning_scale": [1.0, 0.7]}
    expected = theirs(folders["four channels"], networks, noise, source, hole, [picture, depth], **named)
    control = Control(image=depth, scale=torch.full((1,), 0.7))
    made = ours(load(folders["four channels"], *networks), noise, source, hole, controls=(control,))
    assert (made - expected).abs().max() < TOLERANCE


def test_the_window_of_the_branch_leaves_the_control_pictures_alone(folders, noise, source, hole, depth):
    picture = controlnet_picture(source, hole)
    networks = [folders["controlnet"], folders["depth"]]
    named = {
        "controlnet_conditioning_scale": [1.0, 1.0],
        "control_guidance_start": [0.0, 0.0],
        "control_guidance_end": [0.5, 1.0],
    }
    expected = theirs(folders["four channels"], networks, noise, source, hole, [picture, depth], **named)
    control = Control(image=depth, scale=torch.ones(1))
    made = ours(load(folders["four channels"], *networks), noise, source, hole, controls=(control,), branch_end=0.5)
    assert (made - expected).abs().max() < TOLERANCE


def test_the_picture_has_a_hole_below_black(source, hole):
    made = controlnet_picture(source, hole)
    assert torch.equal(made[(hole > 0.5).expand_as(made)].unique(), torch.tensor([-1.0]))
    assert torch.equal(made[(hole < 0.5).expand_as(made)], ((source + 1) / 2)[(hole < 0.5).expand_as(made)])
    assert 0 <= made[(hole < 0.5).expand_as(made)].min() <= made.max() <= 1
    assert controlnet_picture(source, torch.full_like(hole, 0.5)).min() >= 0


def reference_demo(backbone: TinyDenoiser, source: Tensor, mask: Tensor, draws: Draws, steps: int) -> Tensor:
    """From noise alone; before each call the noised source by the soft mask; DDIM with eta 1; nothing after the last step."""
    timesteps = [1 + i * (1000 // steps) for i in range(steps)]
    previous = [ABAR[0]] + [ABAR[t] for t in timesteps[:-1]]
    z = draws.draw()
    for t, after in zip(reversed(timesteps), reversed(previous), strict=True):
        before = ABAR[t]
        z = (math.sqrt(before) * source + math.sqrt(1 - before) * draws.draw()) * (1 - mask) + mask * z
        eps = backbone.output(z, t, 9.0)
        sigma = math.sqrt((1 - after) / (1 - before) * (1 - before / after))
        clean = (z - math.sqrt(1 - before) * eps) / math.sqrt(before)
        z = math.sqrt(after) * clean + math.sqrt(1 - after - sigma**2) * eps + sigma * draws.draw()
    return z


def test_the_official_preset_steps_as_the_demo(backbone):
    """The branch apart, which the tests above compare."""
    soft = functional.avg_pool2d(functional.pad(square(), (1,) * 4), 3, stride=1)
    assert 0 < soft[soft > 0].min() < 0.5
    injected = Draws()
    task = make_task(PRESETS["official"], picture(), soft, **PRESETS["official"].defaults)
    made = runner(controlnet)(backbone, task, silent, injected)
    expected = reference_demo(backbone, picture(), soft, Draws(), PRESETS["official"].defaults["steps"])
    assert (made - expected).abs().max() < TOLERANCE
    assert injected.taken == 41  # the start, and in each of 20 steps the source's noise and the step's
    assert 0.1 < expected.std() < 100
