"""Kolors: its text encoder's contract by hand, diffusers' KolorsPipeline, and the nine-channel loop written out.

Tiny random components of the real classes, float32.
"""

from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from sfumato.backbones import loading
from sfumato.backbones.base import Backbone
from sfumato.backbones.unet import UNet
from sfumato.denoising.base import Model
from sfumato.denoising.guidance import guidance_of
from sfumato.denoising.prompts import Texts
from sfumato.methods.base import EditInputs, EditTask, Sampling
from sfumato.methods.conditioning import text_pair
from sfumato.methods.finetuned import stable_inpainting
from sfumato.methods.sampling import blended_latent_diffusion
from tests.parity.reference import TOLERANCE, silent
from tests.tiny_kolors import SCHEDULE, stand_in, tiny_kolors

SIDE, CELLS, STEPS, SCALE = 32, 16, 5, 4.0
PROMPT, NEGATIVE = "a red ball", "blue"
LENGTH, UNKNOWN, MASKED, START = 256, 0, 42, 44  # tokens of a prompt; ids of the stand-in's padding, [gMASK] and sop
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """By the number of channels."""
    home = tmp_path_factory.mktemp("kolors")
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        folders = {count: tiny_kolors(home / str(count), in_channels=count) for count in (4, 9)}
        yield {count: loading.load(str(folder), device="cpu", dtype="float32") for count, folder in folders.items()}


def pipe_of(backbone: Backbone) -> Any:
    text: Any = backbone.text_encoder
    return text._pipe


def unet_of(backbone: Backbone) -> Any:
    assert isinstance(backbone.denoiser, UNet)
    return backbone.denoiser.unet


class Drawn:
    """Noise that was drawn before."""

    def __init__(self, eps: Tensor) -> None:
        self.eps = eps

    def draw(self) -> Tensor:
        return self.eps


def test_what_the_text_encoder_is_given_and_what_is_taken_of_it(backbones: dict[int, Backbone]) -> None:
    """Left padding to 256 with [gMASK] sop before the words; positions count from the first of them."""
    backbone = backbones[4]
    pipe = pipe_of(backbone)
    words = [pipe.tokenizer.convert_tokens_to_ids(letter) for letter in PROMPT]
    ids, padding = [MASKED, START, *words], LENGTH - 2 - len(words)
    given = {
        "input_ids": [UNKNOWN] * padding + ids,
        "attention_mask": [0] * padding + [1] * len(ids),
        "position_ids": [0] * padding + list(range(len(ids))),
    }
    output = pipe.text_encoder(**{name: torch.tensor([row]) for name, row in given.items()}, output_hidden_states=True)
    assert backbone.text_encoder is not None
    (text,) = backbone.text_encoder.encode([PROMPT])
    assert text.pooled is not None
    assert torch.equal(text.states, output.hidden_states[-2].transpose(0, 1))
    assert torch.equal(text.pooled, output.hidden_states[-1][-1])
    last = pipe.text_encoder.encoder.final_layernorm(text.pooled)  # is put behind it for the network's own output
    torch.testing.assert_close(last, output.last_hidden_state[-1], rtol=0, atol=1e-6)
    assert (last - text.pooled).abs().max() > 0.1


def test_words_are_encoded_alike_at_any_length_of_the_padding(backbones: dict[int, Backbone]) -> None:
    pipe, count = pipe_of(backbones[4]), len(PROMPT) + 2
    short, long = (pipe.encode_prompt(PROMPT, "cpu", max_sequence_length=length)[0] for length in (32, LENGTH))
    torch.testing.assert_close(short[:, -count:], long[:, -count:], rtol=0, atol=1e-5)


def pair_of(backbone: Backbone, pixels: Tensor, mask: Tensor, options: Any) -> Any:
    texts = Texts(prompt=PROMPT, negative=NEGATIVE, words=PROMPT)
    cells = torch.nn.functional.max_pool2d(mask, 2)
    return text_pair(backbone, EditInputs(texts=texts, pixels=pixels, mask_pixels=mask, mask_latent=cells, options=options))


def test_text_to_image_is_the_pipelines(backbones: dict[int, Backbone]) -> None:
    """A mask of everything over a source of nothing leaves plain sampling."""
    backbone = backbones[4]
    eps = torch.randn(1, 4, CELLS, CELLS, generator=torch.Generator().manual_seed(3))
    pipe = pipe_of(backbone)
    pipe.set_progress_bar_config(disable=True)
    how: dict[str, Any] = {"height": SIDE, "width": SIDE, "num_inference_steps": STEPS, "guidance_scale": SCALE}
    expected = pipe(PROMPT, negative_prompt=NEGATIVE, latents=eps.clone(), output_type="latent", **how).images

    options = blended_latent_diffusion.Options(timestep_spacing="leading", steps_offset=1, init="noise")
    plan = blended_latent_diffusion.plan(backbone.traits, Sampling(scheduler="euler", steps=STEPS), options)
    everything = torch.ones(1, 1, CELLS, CELLS)
    pair = pair_of(backbone, torch.zeros(1, 3, SIDE, SIDE), torch.ones(1, 1, SIDE, SIDE), options)
    model = Model(denoiser=backbone.denoiser, pair=pair, guidance=guidance_of(backbone.traits, SCALE))
    nothing = torch.zeros_like(eps)
    task = EditTask(source=nothing, start=nothing, mask=everything, seeds=(0,), plan=plan, options=options)
    made = blended_latent_diffusion.run(model, task, silent, Drawn(eps))  # type: ignore[arg-type]
    assert (made - expected).abs().max() < TOLERANCE


def reference(backbone: Backbone, pixels: Tensor, mask: Tensor, eps: Tensor, strength: float) -> Tensor:
    """Nine channels: [latents, scaled; mask; latents of the picture with a grey hole], from the noised picture, with guidance."""
    pipe, unet = pipe_of(backbone), unet_of(backbone)
    states, empty_states, pooled, empty_pooled = pipe.encode_prompt(PROMPT, "cpu", negative_prompt=NEGATIVE)
    scheduler = EulerDiscreteScheduler(**SCHEDULE)
    scheduler.set_timesteps(STEPS)
    skipped = STEPS - int(STEPS * strength)
    scheduler.set_begin_index(skipped)
    code = 0.13025 * pipe.vae.encode(pixels).latent_dist.mean
    behind = torch.cat([mask[..., ::2, ::2], 0.13025 * pipe.vae.encode(pixels * (1 - mask)).latent_dist.mean], dim=1)
    sizes = torch.tensor([[SIDE, SIDE, 0.0, 0.0, SIDE, SIDE]])
    x = code + scheduler.sigmas[skipped] * eps
    for t in scheduler.timesteps[skipped:]:
        seen = torch.cat([scheduler.scale_model_input(x, t), behind], dim=1)
        predicted = [
            unet(seen, t, encoder_hidden_states=text, added_cond_kwargs={"text_embeds": vector, "time_ids": sizes}).sample
            for text, vector in ((empty_states, empty_pooled), (states, pooled))
        ]
        x = scheduler.step(predicted[0] + SCALE * (predicted[1] - predicted[0]), t, x).prev_sample
    return x


@pytest.mark.parametrize("strength", [0.999, 0.5])
def test_inpainting_is_the_nine_channel_loop_on_its_own_schedule(backbones: dict[int, Backbone], strength: float) -> None:
    backbone = backbones[9]
    draw = torch.Generator().manual_seed(4)
    pixels, mask = torch.rand(1, 3, SIDE, SIDE, generator=draw) * 2 - 1, torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 6:20, 8:30] = 1
    eps = torch.randn(1, 4, CELLS, CELLS, generator=draw)
    expected = reference(backbone, pixels, mask, eps, strength)

    preset = stable_inpainting.PRESETS["kolors-inpainting"]
    options = preset.options.updated({"posterior_sample": False})
    sampling = Sampling(scheduler=preset.defaults["scheduler"], steps=STEPS, start_fraction=1 - strength)
    plan = stable_inpainting.plan(backbone.traits, sampling, options)  # type: ignore[arg-type]
    source, cells = backbone.autoencoder.encode(pixels), torch.nn.functional.max_pool2d(mask, 2)
    pair = pair_of(backbone, pixels, mask, options)
    model = Model(denoiser=backbone.denoiser, pair=pair, guidance=guidance_of(backbone.traits, SCALE))
    task = EditTask(source=source, start=source, mask=cells, seeds=(0,), plan=plan, options=options)
    made = stable_inpainting.run(model, task, silent, Drawn(eps))  # type: ignore[arg-type]
    assert (made - expected).abs().max() < TOLERANCE
    assert (made - source).abs().max() > 0.1
