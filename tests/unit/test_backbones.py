"""The backbones keep the protocol's promises, on tiny random models of the real classes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    LDMTextToImagePipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor

from sfumato.backbones.base import Backbone, Extra
from sfumato.backbones.capabilities import Layout
from sfumato.backbones.loading import from_pipe, load
from sfumato.denoising.base import Pair
from sfumato.errors import Unsupported
from tests import tiny_models
from tests.guided import conditioned, predict

BUILDERS = {
    "sd1": tiny_models.tiny_sd1,
    "sd2": tiny_models.tiny_sd2_v,
    "sdxl": tiny_models.tiny_sdxl,
    "ldm": tiny_models.tiny_ldm,
    "embedded": tiny_models.tiny_embedded,
}
SIZE = (48, 32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: build(root / family) for family, build in BUILDERS.items()}


@pytest.fixture(scope="module")
def backbones(folders: dict[str, Path]) -> dict[str, Backbone]:
    return {family: load(str(folder), device="cpu", dtype="float32") for family, folder in folders.items()}


@pytest.fixture(params=list(BUILDERS))
def backbone(request: pytest.FixtureRequest, backbones: dict[str, Backbone]) -> Backbone:
    return backbones[request.param]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pixels(batch: int, side: int = 32) -> torch.Tensor:
    return draw(batch, 3, side, side).clamp(-1, 1)


def test_previews_have_a_pixel_for_each_latent(backbone: Backbone) -> None:
    seen = backbone.autoencoder.preview(latents(backbone, 2))
    assert seen.shape == (2, 3, *latents(backbone, 2).shape[-2:])
    assert seen.abs().max() <= 1


def latents(backbone: Backbone, batch: int) -> torch.Tensor:
    return draw(batch, backbone.traits.latent_channels, 8, 8, seed=1)


def test_describes_itself(backbones: dict[str, Backbone]) -> None:
    traits = {family: backbone.traits for family, backbone in backbones.items()}
    facts = {family: (t.family, t.prediction, t.factor, t.resolution, t.latent_channels) for family, t in traits.items()}

    assert facts == {
        "sd1": ("sd1", "epsilon", 2, 32, 4),
        "sd2": ("sd2", "v_prediction", 2, 32, 4),
        "sdxl": ("sdxl", "epsilon", 2, 32, 4),
        "ldm": ("ldm", "epsilon", 2, 32, 4),
        "embedded": ("embedded", "v_prediction", 8, 64, 8),
    }
    assert traits["sd1"].scheduler_config["beta_schedule"] == "scaled_linear"


def test_encode_and_decode_shapes_and_ranges(backbone: Backbone) -> None:
    encoded = backbone.autoencoder.encode(pixels(2))
    decoded = backbone.autoencoder.decode(10 * encoded)

    assert encoded.shape == (2, backbone.traits.latent_channels, 32 // backbone.traits.factor, 32 // backbone.traits.factor)
    assert encoded.dtype == decoded.dtype == torch.float32
    assert decoded.shape == (2, 3, 32, 32)
    assert decoded.abs().max() <= 1


def test_encode_is_the_posterior_mean_shifted_and_scaled(backbone: Backbone) -> None:
    config = backbone.autoencoder.vae.config
    code = backbone.autoencoder.vae.encode(pixels(1)).latent_dist.mean
    expected = (code - (getattr(config, "shift_factor", None) or 0)) * config.scaling_factor

    encoded = backbone.autoencoder.encode(pixels(1))

    torch.testing.assert_close(encoded, expected)
    torch.testing.assert_close(backbone.autoencoder.unscale(encoded), code, atol=1e-5, rtol=1e-5)


def test_a_generator_draws_a_sample_of_the_posterior(backbones: dict[str, Backbone]) -> None:
    model = backbones["sd1"]
    mean = model.autoencoder.encode(pixels(1))
    first, again = (model.autoencoder.encode(pixels(1), torch.Generator().manual_seed(3)) for _ in range(2))

    assert torch.equal(first, again)
    assert not torch.allclose(first, mean)


def test_guidance_combines_the_two_branches(backbone: Backbone) -> None:
    both = conditioned(backbone, "a red ball", "grass", SIZE)
    only = [Pair(unconditional=one, conditional=one) for one in (both.unconditional, both.conditional)]
    z = latents(backbone, 3)
    unconditional, conditional = (predict(backbone, z, 301.0, one, 1.0) for one in only)

    guided = predict(backbone, z, 301.0, both, 7.5)

    torch.testing.assert_close(guided, unconditional + 7.5 * (conditional - unconditional), atol=1e-5, rtol=1e-4)
    assert (conditional - unconditional).abs().max() > 1e-5
    assert guided.shape == z.shape


def test_a_prediction_does_not_depend_on_its_batch(backbone: Backbone) -> None:
    conditioning = conditioned(backbone, "a red ball", "", SIZE)
    z = latents(backbone, 3)

    together = predict(backbone, z, 500.0, conditioning, 3.0)
    alone = torch.cat([predict(backbone, one[None], 500.0, conditioning, 3.0) for one in z])

    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_without_guidance_only_the_prompt_is_run(backbones: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = backbones["sd1"]
    batches: list[int] = []
    forward = model.denoiser.unet.forward

    def counted(x: Tensor, *more: Any, **named: Any) -> Any:
        batches.append(len(x))
        return forward(x, *more, **named)

    monkeypatch.setattr(model.denoiser.unet, "forward", counted)
    conditioning = conditioned(model, "a red ball", "", SIZE)

    predict(model, latents(model, 2), 10.0, conditioning, 1.0)
    predict(model, latents(model, 2), 10.0, conditioning, 2.0)

    assert batches == [2, 4]


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_prompts_are_encoded_as_diffusers_does(family: str, folders: dict[str, Path], backbones: dict[str, Backbone]) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(folders[family], safety_checker=None)
    prompt, negative = pipe.encode_prompt("a red ball", "cpu", 1, True, "grass")

    pair = conditioned(backbones[family], "a red ball", "grass", SIZE)

    for given, expected in ((pair.unconditional, negative), (pair.conditional, prompt)):
        assert given.text is not None
        torch.testing.assert_close(given.text.states, expected)
        assert given.extras == {}


def test_sdxl_matches_a_step_of_its_own_pipeline(folders: dict[str, Path], backbones: dict[str, Backbone]) -> None:
    pipe = StableDiffusionXLPipeline.from_pretrained(folders["sdxl"])
    prompt, negative, pooled, negative_pooled = pipe.encode_prompt("a red ball", negative_prompt="grass")
    time_ids = pipe._get_add_time_ids((32, 48), (0, 0), (32, 48), torch.float32, 32).repeat(2, 1)
    z = latents(backbones["sdxl"], 1)
    extra = {"text_embeds": torch.cat([negative_pooled, pooled]), "time_ids": time_ids}
    with torch.no_grad():
        states = torch.cat([negative, prompt])
        uncond, cond = pipe.unet(z.repeat(2, 1, 1, 1), 301, encoder_hidden_states=states, added_cond_kwargs=extra).sample

    model = backbones["sdxl"]
    guided = predict(model, z, 301.0, conditioned(model, "a red ball", "grass", (48, 32)), 5.0)

    torch.testing.assert_close(guided[0], uncond + 5.0 * (cond - uncond), atol=1e-5, rtol=1e-4)


def test_sdxl_is_told_the_size_and_zeroes_an_empty_negative_prompt(backbones: dict[str, Backbone]) -> None:
    small = conditioned(backbones["sdxl"], "a red ball", "", (48, 32))
    large = conditioned(backbones["sdxl"], "a red ball", "", (1024, 512))
    unconditional, conditional = small.unconditional.text, small.conditional.text
    assert unconditional is not None
    assert conditional is not None
    assert unconditional.pooled is not None

    assert unconditional.states.shape == conditional.states.shape == (1, 77, 64)
    assert unconditional.pooled.shape == (1, 32)
    for given in (large.unconditional, large.conditional):
        assert given.extras[Extra.TIME_IDS].tolist() == [[512, 1024, 0, 0, 512, 1024]]
    assert unconditional.states.abs().max() == 0
    assert unconditional.pooled.abs().max() == 0
    assert conditional.states.abs().max() > 0


def test_ldm_matches_its_own_pipeline(folders: dict[str, Path], backbones: dict[str, Backbone]) -> None:
    pipe = LDMTextToImagePipeline.from_pretrained(folders["ldm"])
    pipe.set_progress_bar_config(disable=True)
    start = draw(1, 4, 16, 16)
    side = 8 * 16  # the pipeline believes in a factor of 8
    options = {"num_inference_steps": 2, "guidance_scale": 5.0, "height": side, "width": side, "output_type": "pt"}
    expected = pipe("a red ball", latents=start, **options)

    model = backbones["ldm"]
    conditioning = conditioned(model, "a red ball", "", (32, 32))
    z = start
    for timestep in pipe.scheduler.timesteps:
        z = pipe.scheduler.step(predict(model, z, float(timestep), conditioning, 5.0), timestep, z).prev_sample

    torch.testing.assert_close(model.autoencoder.decode(z) / 2 + 0.5, expected.images, atol=1e-4, rtol=1e-4)


def test_from_pipe_uses_the_pipelines_own_modules(folders: dict[str, Path], backbones: dict[str, Backbone]) -> None:
    pipe = StableDiffusionInpaintPipeline.from_pretrained(folders["sd1"], safety_checker=None)
    model: Any = from_pipe(pipe)
    z, conditioning = latents(model, 1), conditioned(model, "a red ball", "", SIZE)

    assert model.denoiser.unet is pipe.unet
    assert model.autoencoder.vae is pipe.vae
    assert not any(p.requires_grad for part in (pipe.unet, pipe.vae, pipe.text_encoder) for p in part.parameters())
    assert model.denoiser.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    expected = predict(backbones["sd1"], z, 301.0, conditioning, 4.0)
    torch.testing.assert_close(predict(model, z, 301.0, conditioning, 4.0), expected)


@pytest.mark.parametrize(
    ("channels", "sentence"),
    [
        (8, r"instruction editing as InstructPix2Pix \(its UNet takes 8 channels: latents and"),
        (11, r"another task \(its UNet takes 11 channels: not 4, 9 or 6"),
    ],
)
def test_a_unet_of_another_layout_is_refused_before_its_weights_are_read(channels: int, sentence: str, tmp_path: Path) -> None:
    folder = tiny_models.tiny_sd1(tmp_path)
    tiny_models.rewrite_json(folder / "unet/config.json", in_channels=channels)
    for weights in folder.glob("unet/*.safetensors"):
        weights.unlink()
    with pytest.raises(Unsupported, match=f"trained for {sentence}.*text-to-image or inpainting checkpoint"):
        load(str(folder), device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (tiny_models.tiny_inpainting, StableDiffusionInpaintPipeline),
        (tiny_models.tiny_inpainting_xl, StableDiffusionXLInpaintPipeline),
    ],
)
def test_an_inpainting_pipeline_is_taken_as_its_folder_is(build: Any, kind: Any, tmp_path: Path) -> None:
    folder = build(tmp_path)
    own, read = from_pipe(kind.from_pretrained(folder)), load(str(folder), device="cpu", dtype="float32")
    given = conditioned(own, "a red ball", "", SIZE).conditional
    x, channels = torch.randn((1, 9, 8, 8), generator=torch.Generator().manual_seed(0)).split((4, 5), dim=1)
    assert own.traits.layout is read.traits.layout is Layout.INPAINTING
    outputs = [model.denoiser(x, 301.0, replace(given, channels=channels)).prediction for model in (own, read)]
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize(
    ("channels", "layout"),
    [(4, Layout.LATENTS), (9, Layout.INPAINTING), (8, Layout.INSTRUCTION), (6, Layout.SMARTBRUSH), (11, None)],
)
def test_a_layout_is_known_by_its_channels(channels: int, layout: Layout | None) -> None:
    assert Layout.of(channels, 4) is layout
    assert layout is None or layout.channels(4) == channels


def test_a_unet_that_gives_something_else_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    folder = tiny_models.tiny_sd1(tmp_path)
    for weights in folder.glob("unet/*.safetensors"):
        weights.unlink()
    for channels, outputs, expected in ((6, 4, 5), (4, 8, 4)):
        tiny_models.rewrite_json(folder / "unet/config.json", in_channels=channels, out_channels=outputs)
        with pytest.raises(Unsupported, match=rf"takes {channels} channels .* and gives {outputs}, not {expected};"):
            load(str(folder), device="cpu", dtype="float32")


def test_half_precision_gives_float32_and_spares_the_overflowing_autoencoder(folders: dict[str, Path]) -> None:
    pipe = StableDiffusionXLPipeline.from_pretrained(folders["sdxl"], dtype=torch.float16)
    model: Any = from_pipe(pipe)
    reduced = load(str(folders["sd1"]), device="cpu", dtype="bfloat16")
    z = latents(reduced, 1)

    assert (model.traits.dtype, model.autoencoder.vae.dtype, pipe.vae.dtype) == (torch.float16, torch.float32, torch.float16)
    assert reduced.autoencoder.vae.dtype == torch.bfloat16
    assert reduced.autoencoder.encode(pixels(1)).dtype == reduced.autoencoder.decode(z).dtype == torch.float32
    assert predict(reduced, z, 10.0, conditioned(reduced, "a", "", SIZE), 2.0).dtype == torch.float32


def test_the_embedded_model_knows_its_words(backbones: dict[str, Backbone]) -> None:
    known: dict[str, Any] = {family: backbone.text_encoder for family, backbone in backbones.items()}
    long = "a red ball on the grass, " * 4

    assert known["embedded"].unknown_words("A red Ball, on GRASS") == []
    assert known["embedded"].unknown_words(long + "a Zebra; zebra, of mars and a Zebra") == ["Zebra", "zebra", "mars", "and"]
    assert known["sd1"].unknown_words("zebra") == []
    assert known["embedded"].known_words() == ["a", "red", "blue", "ball", "cube", "on", "grass", "the", "of"]
    assert known["sd1"].known_words() == []
