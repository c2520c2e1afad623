"""Flow-matching models: against diffusers' own pipelines, and the blend against its arithmetic written out.

Tiny random components of the real classes, loaded as a user would, float32.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato import Editor
from sfumato.backbones import flow, hub, loading, packing
from sfumato.backbones.base import Backbone
from sfumato.denoising.base import Model
from sfumato.denoising.guidance import guidance_of
from sfumato.errors import ModelNotFound, OptionError, Unsupported
from sfumato.methods.base import EditTask, Sampling
from sfumato.methods.sampling import blended_latent_diffusion
from sfumato.methods.sampling.blended_latent_diffusion import PRESETS
from sfumato.noise.levels import Level
from sfumato.noise.plan import Step, make_plan
from tests import tiny_flow, tiny_models
from tests.guided import conditioned
from tests.parity.reference import TOLERANCE, silent

CELLS = 16  # a side: pictures of 32 pixels
STEPS, SCALE, PROMPT, NEGATIVE = 3, 2.5, "a red ball", "blue"
FAMILIES = list(tiny_flow.BUILDERS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("flow")
    return {name: build(home / name) for name, build in tiny_flow.BUILDERS.items()}


@pytest.fixture(scope="module")
def backbones(folders: dict[str, Path]) -> dict[str, Backbone]:
    return {name: loading.load(str(folder), dtype="float32") for name, folder in folders.items()}


class Noise:
    """One draw of noise for one prediction."""

    def __init__(self) -> None:
        self.generators = [torch.Generator().manual_seed(0)]
        self.eps = torch.randn((1, 4, CELLS, CELLS), generator=torch.Generator().manual_seed(3))

    def draw(self) -> Tensor:
        return self.eps


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A task, and the model that it is for."""

    model: Model
    task: EditTask[Any, Any]


def make_edit(backbone: Backbone, source: Tensor, mask: Tensor, **sampling: Any) -> Edit:
    pair = conditioned(backbone, PROMPT, NEGATIVE, guidance=3.5)
    options = PRESETS["default"].options
    known: dict[str, Any] = {
        "scheduler": "flow-euler",
        "steps": STEPS,
        "settings": backbone.traits.schedule((CELLS, CELLS), STEPS),
    }
    plan = blended_latent_diffusion.plan(backbone.traits, Sampling(**{**known, **sampling}), options)
    return Edit(
        model=Model(denoiser=backbone.denoiser, pair=pair, guidance=guidance_of(backbone.traits, SCALE)),
        task=EditTask(source=source, start=source, mask=mask, seeds=(0,), plan=plan, options=options),
    )


def run(edit: Edit, noise: Any) -> Tensor:
    return blended_latent_diffusion.run(edit.model, edit.task, silent, noise)


def pipeline_latents(folder: Path, name: str, eps: Tensor) -> Tensor:
    """What diffusers' own pipeline makes of the same noise, as our latents."""
    import diffusers

    kinds = {
        "sd3": diffusers.StableDiffusion3Pipeline,
        "flux": diffusers.FluxPipeline,
        "flux2": diffusers.Flux2KleinPipeline,
        "z-image": diffusers.ZImagePipeline,
        "qwen-image": diffusers.QwenImagePipeline,
    }
    pipe = kinds[name].from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    sigmas = [1 - i / STEPS for i in range(STEPS)]
    common = {"height": 32, "width": 32, "num_inference_steps": STEPS, "output_type": "latent", "sigmas": sigmas}
    packed = packing.pack(eps)
    if name == "sd3":
        guidance = {"negative_prompt": NEGATIVE, "guidance_scale": SCALE}
        return pipe(PROMPT, latents=eps, **guidance, **common).images
    if name == "flux":
        guidance = {"negative_prompt": NEGATIVE, "true_cfg_scale": SCALE, "guidance_scale": 3.5}
        return packing.unpack(pipe(PROMPT, latents=packed, **guidance, **common).images, (CELLS, CELLS))
    if name == "flux2":
        negative = pipe.encode_prompt(NEGATIVE)[0]
        latents = packed.transpose(1, 2).reshape(1, 16, CELLS // 2, CELLS // 2)
        guidance = {"negative_prompt_embeds": negative, "guidance_scale": SCALE}
        return pipe(prompt=PROMPT, latents=latents, **guidance, **common).images
    if name == "z-image":
        return pipe(PROMPT, latents=eps, negative_prompt=NEGATIVE, guidance_scale=SCALE - 1, **common).images
    guidance = {"negative_prompt": NEGATIVE, "true_cfg_scale": SCALE}
    return packing.unpack(pipe(PROMPT, latents=packed, **guidance, **common).images, (CELLS, CELLS))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_full_mask_gives_what_the_pipeline_gives(name: str, folders: dict[str, Path], backbones: dict[str, Backbone]) -> None:
    """Text encoders, packing, guidance, timestep, sign and shift, all at once; from pure noise, so the source plays no part."""
    backbone, noise = backbones[name], Noise()
    with torch.no_grad():
        expected = pipeline_latents(folders[name], name, noise.eps)
        source = torch.randn(1, 4, CELLS, CELLS)
        result = run(make_edit(backbone, source, torch.ones(1, 1, CELLS, CELLS)), noise)
        if name == "flux2":
            result = backbone.autoencoder.unscale(result)
    assert (result - expected).abs().max() < TOLERANCE * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_blend_is_that_of_linear_interpolation(name: str, backbones: dict[str, Backbone]) -> None:
    """x = (1 - s) z0 + s eps around the mask at every level, one fixed noise; Euler; the first level at or below ratio 3.94."""
    backbone, noise, steps = backbones[name], Noise(), 6
    source = torch.randn((1, 4, CELLS, CELLS), generator=torch.Generator().manual_seed(5))
    mask = torch.zeros(1, 1, CELLS, CELLS)
    mask[..., 3:11, 5:12] = 1
    schedule = backbone.traits.schedule((CELLS, CELLS), steps)
    edit = make_edit(backbone, source, mask, steps=steps, settings=schedule, start_sigma=3.94)

    shift = schedule.get("shift", backbone.traits.scheduler_config["shift"])
    sigmas = [shift * u / (1 + (shift - 1) * u) for u in (1 - i / steps for i in range(steps))]
    terminal = backbone.traits.scheduler_config.get("shift_terminal")
    if terminal:
        sigmas = [1 - (1 - s) * (1 - terminal) / (1 - sigmas[-1]) for s in sigmas]
    sigmas = [s for s in [*sigmas, 0.0] if s / (1 - s + 1e-12) <= 3.94]
    x = (1 - sigmas[0]) * source + sigmas[0] * noise.eps
    with torch.no_grad():
        for s, after in pairwise(sigmas):
            step = Step(index=0, timestep=1000 * s, before=Level(1 - s, s), after=Level(1 - after, after))
            x = x + (after - s) * edit.model(x, step).prediction
            x = mask * x + (1 - mask) * ((1 - after) * source + after * noise.eps)
        result = run(edit, noise)
    assert (result - x).abs().max() < TOLERANCE * max(1.0, float(x.abs().max()))
    outside = (mask == 0).expand_as(result)
    assert torch.equal(result[outside], source[outside])
    assert (result - source)[~outside].abs().max() > 0.1


@pytest.mark.parametrize("name", FAMILIES)
def test_decoding_undoes_the_scale_of_encoding(name: str, backbones: dict[str, Backbone]) -> None:
    backbone = backbones[name]
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = backbone.autoencoder.encode(pixels)
    assert latents.shape == (1, 4, CELLS, CELLS)
    with torch.no_grad():
        given = pixels.unsqueeze(2) if name == "qwen-image" else pixels
        code = backbone.autoencoder.vae.encode(given).latent_dist.mode()
    assert (backbone.autoencoder.unscale(latents) - code).abs().max() < 1e-5
    decoded = backbone.autoencoder.decode(latents)
    assert decoded.shape == (1, 3, 32, 32)
    assert decoded.abs().max() <= 1


@pytest.mark.parametrize("name", FAMILIES)
def test_edits_from_a_folder(name: str, folders: dict[str, Path], picture_file: Path, mask_file: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(flow, "NATIVE_CELLS", 32)
    editor = Editor(str(folders[name]), dtype="float32")
    fields: dict[str, Any] = {"image": picture_file, "mask": mask_file, "prompt": PROMPT, "n": 2, "steps": 4, "rank": "none"}
    result = editor.edit(**fields)
    assert result.request.scheduler == "flow-euler"
    assert result.request.start_sigma == 3.94
    source, inside = np.asarray(Image.open(picture_file)).astype(int), np.asarray(result.mask) > 0
    for image in result.images:
        change = np.abs(np.asarray(image).astype(int) - source)
        assert not change[~inside].any()
        assert change[inside].mean() > 3
    with pytest.raises(OptionError, match="flow-euler"):
        editor.edit(**fields, scheduler="ddim")
    with pytest.raises(Unsupported, match="blended-latent-diffusion"):
        editor.edit(**fields, method="repaint")
    if name != "flux":
        with pytest.raises(Unsupported, match="guidance embedding"):
            editor.edit(**fields, guidance_embedding=3.0)
    if name == "qwen-image":
        with pytest.raises(Unsupported, match="background"):
            editor.edit(**fields, background="decoder")


def test_a_told_guidance_changes_the_picture(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["flux"]
    latents = torch.randn(1, 4, CELLS, CELLS)
    answers = []
    for told in (1.0, 5.0):
        given = conditioned(backbone, PROMPT, guidance=told).conditional
        answers.append(backbone.denoiser(latents, 500.0, given).prediction)
    assert (answers[0] - answers[1]).abs().max() > 1e-4


@pytest.mark.parametrize(("tokens", "skipped"), [(4096, 0.45), (256, 0.30)])
def test_the_default_start_skips_the_same_noise_on_every_schedule(tokens: int, skipped: float) -> None:
    """A noise-to-signal ratio of 3.94 is s = 0.797; how many of FLUX's steps are above it depends on the size."""
    mu = 0.5 + 0.65 * (tokens - 256) / 3840
    plan = make_plan("flow-euler", {"shift": 1.0}, "flow", 100, start_sigma=3.94, overrides={"shift": math.exp(mu)})
    assert plan.start / 100 == pytest.approx(skipped, abs=0.011)
    assert plan.run[0].before.noise == pytest.approx(0.797, abs=0.01)


def test_an_inpainting_transformer_is_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    import diffusers

    pipe = diffusers.FluxPipeline.from_pretrained(folders["flux"])
    pipe.transformer = diffusers.FluxTransformer2DModel.from_config({**pipe.transformer.config, "in_channels": 96})
    with pytest.raises(Unsupported, match="96 channels"):
        loading.from_pipe(pipe)


def test_packing_is_undone() -> None:
    latents = torch.randn(2, 3, 8, 6)
    assert torch.equal(packing.unpack(packing.pack(latents), (8, 6)), latents)


def test_an_embedded_folder_with_a_flow_scheduler_is_a_flow_model(tmp_path: Path, picture_file: Path, mask_file: Path) -> None:
    folder = tiny_models.tiny_embedded(tmp_path / "embedded-flow", tiny_flow.scheduler(shift=1.0))
    editor = Editor(str(folder), dtype="float32")
    backbone = editor.backbone
    assert (backbone.traits.family, backbone.traits.prediction) == ("embedded-flow", "flow")
    told: list[float] = []
    backbone.denoiser.unet.register_forward_pre_hook(lambda _, given: told.append(float(given[1])))
    result = editor.edit(image=picture_file, mask=mask_file, prompt="a red ball", n=1, steps=4, rank="none")
    assert told == [750.0, 500.0, 250.0]  # 1000 s, from the first level at a ratio of at most 20
    assert len(result.images) == 1


def test_missing_weights_of_an_embedded_model_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path)
    with pytest.raises(ModelNotFound, match="embedded-flow"):
        Editor("embedded-flow")
