"""PowerPaint: against diffusers' inpainting pipeline, given prompts that are encoded as its authors do.

Their tokenizer replaces each placeholder by the names of ten rows behind the vocabulary, and the text encoder's table has them.
Tiny random components of the real classes, float32.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline
from PIL import Image
from torch import Tensor

from sfumato import Editor, EditRequest
from sfumato.backbones.unet import UNet
from tests import tiny_checkpoints
from tests.parity.reference import TOLERANCE

SIDE, STEPS, SCALE, SEED = 64, 4, 5.0, 3
PROMPT, NEGATIVE = "a red ball", "blue"
Q = ", worst quality, low quality, normal quality, bad quality, blurry "
TASKS = {  # prompts A and B, and negative prompts A and B
    "edit": ("a red ball P_obj",) * 2 + (f"blue{Q}P_obj",) * 2,
    "shape": ("a red ball P_shape", "a red ball P_ctxt", f"blue{Q}P_shape", f"blue{Q}P_ctxt"),
    "remove": ("empty scene blur a red ball P_ctxt",) * 2 + ("blue P_obj",) * 2,
    "fill": ("a red ball P_ctxt",) * 2 + ("blue",) * 2,
}
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.tiny_powerpaint(tmp_path_factory.mktemp("models") / "powerpaint")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    made = StableDiffusionInpaintPipeline.from_pretrained(folder)
    made.scheduler = DDIMScheduler.from_config(made.scheduler.config)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def editor(folder: Path) -> Editor:
    return Editor(str(folder), dtype="float32")


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def mask() -> Image.Image:
    levels = np.zeros((SIDE, SIDE), np.uint8)
    levels[17:40, 21:51] = 255
    return Image.fromarray(levels)


def encoded(pipe: Any, text: str) -> Tensor:
    """As the authors' wrapper does: names of rows in place of the placeholder, one chunk, the last layer normalised."""
    for token in ("P_ctxt", "P_shape", "P_obj"):
        text = text.replace(token, " ".join(f"{token}_{i}" for i in range(10)))
    ids = pipe.tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    states: Tensor = pipe.text_encoder(ids)[0]
    return states


def request(task: str, **fields: Any) -> EditRequest:
    return EditRequest(
        image=picture(),
        mask=mask(),
        task=task,
        **{
            "prompt": PROMPT,
            "negative_prompt": NEGATIVE,
            "preset": "official",
            "guard": False,
            "window": "whole",
            "n": 2,
            "seed": SEED,
            "steps": STEPS,
            "guidance_scale": SCALE,
            "mask_grow": 0,
        }
        | fields,
    )


@pytest.mark.parametrize(("task", "fitting"), [("edit", 1.0), ("shape", 1.0), ("shape", 0.3), ("remove", 1.0), ("fill", 1.0)])
def test_the_official_preset_is_the_pipeline(task: str, fitting: float, pipe: Any, editor: Editor) -> None:
    a, b, negative_a, negative_b = (encoded(pipe, text) for text in TASKS[task])
    states = {
        "prompt_embeds": fitting * a + (1 - fitting) * b,
        "negative_prompt_embeds": fitting * negative_a + (1 - fitting) * negative_b,
    }
    pictures: dict[str, Any] = {"image": picture(), "mask_image": mask(), "height": SIDE, "width": SIDE, "strength": 1.0}
    settings = {"num_inference_steps": STEPS, "guidance_scale": SCALE, "output_type": "latent"}
    expected = [
        pipe(**states, **pictures, **settings, generator=torch.Generator().manual_seed(SEED + i)).images for i in range(2)
    ]
    prepared = editor.prepare(request(task, fitting=fitting))
    assert prepared.card.name == "powerpaint"
    pair = prepared.windows[0].pair
    assert pair.conditional.text is not None
    assert pair.unconditional.text is not None
    assert (pair.conditional.text.states - states["prompt_embeds"]).abs().max() < 1e-6
    assert (pair.unconditional.text.states - states["negative_prompt_embeds"]).abs().max() < 1e-6
    made = torch.cat([part.latents for part in editor.sample(prepared.samples)])
    assert (made - torch.cat(expected)).abs().max() < TOLERANCE


def test_removal_is_guided_from_things_to_surroundings(pipe: Any, editor: Editor) -> None:
    """One step of DDIM with eps = eps(P_obj) + w (eps(P_ctxt) - eps(P_obj)), without words."""
    prepared = editor.prepare(request("remove", prompt="", negative_prompt=None, steps=1, n=1))
    (made,) = (part.latents for part in editor.sample(prepared.samples))
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn((1, 4, SIDE // 2, SIDE // 2), generator=generator)
    hole = torch.from_numpy(np.asarray(mask()) / 255).float()[None, None]
    pixels = torch.from_numpy(np.asarray(picture()) / 127.5 - 1).float().permute(2, 0, 1)[None] * (1 - hole)
    code = pipe.vae.encode(pixels).latent_dist.sample(generator) * pipe.vae.config.scaling_factor
    assert isinstance(editor.backbone.denoiser, UNet)
    pipe.scheduler.set_timesteps(1)
    (time,) = pipe.scheduler.timesteps
    seen = torch.cat([x, hole[..., ::2, ::2], code], dim=1)
    things, surroundings = (pipe.unet(seen, time, encoded(pipe, text)).sample for text in (" P_obj", "empty scene blur  P_ctxt"))
    expected = pipe.scheduler.step(things + SCALE * (surroundings - things), time, x).prev_sample
    assert (made - expected).abs().max() < TOLERANCE


def test_vectors_of_a_plain_word_are_that_word(folder: Path, tmp_path: Path, pipe: Any) -> None:
    """With all thirty rows those of one word, PowerPaint is Stable Diffusion inpainting with this word ten times."""
    made = StableDiffusionInpaintPipeline.from_pretrained(folder)
    table = made.text_encoder.get_input_embeddings().weight
    (word,) = made.tokenizer("a", add_special_tokens=False).input_ids
    table[-30:] = table[word]
    made.save_pretrained(tmp_path / "plain")
    editor = Editor(str(tmp_path / "plain"), dtype="float32")
    latents = []
    for method, prompt, preset in (("powerpaint", PROMPT, "official"), ("stable-inpainting", PROMPT + " a" * 10, "diffusers")):
        against = NEGATIVE if method == "powerpaint" else f"{NEGATIVE}{Q}{'a ' * 10}"
        fields = {"method": method, "prompt": prompt, "preset": preset, "negative_prompt": against, "n": 1}
        (part,) = editor.sample(editor.prepare(request("edit", **fields)).samples)
        latents.append(part.latents)
    assert (latents[0] - latents[1]).abs().max() < TOLERANCE
