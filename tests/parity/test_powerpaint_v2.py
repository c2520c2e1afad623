"""PowerPaint v2: what base and branch are told, and what the branch adds, against arithmetic written out by hand.

The text encoder as others share it: a table with thirty further rows. Tiny random components, float32.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from sfumato.backbones import loading
from sfumato.backbones.base import Backbone
from sfumato.denoising.base import Model
from sfumato.denoising.guidance import guidance_of
from sfumato.denoising.prompts import Texts
from sfumato.methods.base import EditInputs, EditTask, Sampling, Task
from sfumato.methods.branch import powerpaint_v2
from sfumato.methods.branch.powerpaint_v2 import Options
from sfumato.text.grammar import Span
from tests.parity.brushnet_reference import added_base, time_embedding
from tests.parity.reference import TOLERANCE, silent
from tests.tiny_branches import tiny_powerpaint_v2
from tests.tiny_models import tiny_sd1

SIDE, CELLS, STEPS, SCALE = 32, 16, 4, 4.0
PROMPT, NEGATIVE = "a red ball", "blue"
# Of the published demo: what the branch is told (A, B, and against them), and what the base is told behind the prompt.
TOLD: dict[str, tuple[str, str, str, str, str]] = {
    "edit": ("P_obj", "P_obj", "P_obj", "P_obj", ""),
    "shape": ("P_shape", "P_ctxt", "P_shape", "P_ctxt", ""),
    "remove": ("P_ctxt", "P_ctxt", "P_obj", "P_obj", " empty scene blur"),
    "outpaint": ("P_ctxt", "P_ctxt", "P_obj", "P_obj", " empty scene"),
}
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("v2")
    tiny_sd1(folder / "base")
    tiny_powerpaint_v2(folder / "branch", UNet2DConditionModel.from_pretrained(folder / "base/unet"), repacked=True)
    return folder


@pytest.fixture(scope="module")
def backbone(home: Path) -> Backbone:
    return loading.load(str(home / "base"), device="cpu", dtype="float32", branch=str(home / "branch"))


class Published:
    """The networks as files have them."""

    def __init__(self, home: Path) -> None:
        self.base = UNet2DConditionModel.from_pretrained(home / "base/unet")
        self.text = CLIPTextModel.from_pretrained(home / "base/text_encoder")
        self.tokenizer = CLIPTokenizer.from_pretrained(home / "base/tokenizer")
        self.task_text = CLIPTextModel.from_pretrained(home / "branch/text_encoder_brushnet")
        self.task_tokenizer = CLIPTokenizer.from_pretrained(home / "branch/tokenizer")
        self.tensors = load_file(home / "branch/PowerPaint_Brushnet/diffusion_pytorch_model.safetensors")
        self.branch = UNet2DConditionModel.from_config({**self.base.config, "in_channels": 9})
        names = {name: name.replace("conv_in.", "conv_in_condition.") for name in self.branch.state_dict()}
        missing, unexpected = self.branch.load_state_dict(
            {name: self.tensors[key] for name, key in names.items() if key in self.tensors}, strict=False
        )
        assert not unexpected
        assert all(name.startswith(("conv_norm_out", "conv_out")) for name in missing)

    def told(self, prompt: str) -> Tensor:
        ids = self.tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
        return self.text(ids).last_hidden_state

    def task(self, placeholder: str) -> Tensor:
        """States of ten tokens between start and end: further rows of the table."""
        run = self.task_tokenizer.convert_tokens_to_ids([f"{placeholder}_{i}" for i in range(10)])
        start, end = self.task_tokenizer.bos_token_id, self.task_tokenizer.eos_token_id
        ids = torch.tensor([[start, *run, end] + [self.task_tokenizer.pad_token_id] * (77 - 12)])
        return self.task_text(ids).last_hidden_state

    def convolved(self, name: str, h: Tensor) -> Tensor:
        return F.conv2d(h, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def residuals(self, x: Tensor, t: Tensor, states: Tensor) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """Of the branch, walked block by block: attention everywhere that the base has it."""
        unet, emb = self.branch, time_embedding(self.branch, t, x, None)

        def layer(block: Any, j: int, h: Tensor) -> Tensor:
            h = block.resnets[j](h, emb)
            attentions = getattr(block, "attentions", None)
            return attentions[j](h, encoder_hidden_states=states, return_dict=False)[0] if attentions else h

        down = [unet.conv_in(x)]
        for block in unet.down_blocks:
            for j in range(len(block.resnets)):
                down.append(layer(block, j, down[-1]))
            for downsampler in block.downsamplers or ():
                down.append(downsampler(down[-1]))
        h = middle = unet.mid_block(down[-1], emb, encoder_hidden_states=states)
        up, skips = [], list(down)
        for block in unet.up_blocks:
            for j in range(len(block.resnets)):
                h = layer(block, j, torch.cat([h, skips.pop()], dim=1))
                up.append(h)
            for upsampler in block.upsamplers or ():
                h = upsampler(h, skips[-1].shape[-2:])
                up.append(h)
        return (
            [self.convolved(f"brushnet_down_blocks.{k}", each) for k, each in enumerate(down)],
            self.convolved("brushnet_mid_block", middle),
            [self.convolved(f"brushnet_up_blocks.{k}", each) for k, each in enumerate(up)],
        )

    def predicted(self, x: Tensor, behind: Tensor, t: Tensor, prompt: str, states: Tensor) -> Tensor:
        residuals = self.residuals(torch.cat([x, behind], dim=1), t, states)
        return added_base(self.base, x, time_embedding(self.base, t, x, None), self.told(prompt), residuals)


@pytest.fixture(scope="module")
def published(home: Path) -> Published:
    return Published(home)


def inputs(task: Task, options: Options, *, parsed: bool = False) -> EditInputs[Options]:
    draw = torch.Generator().manual_seed(7)
    pixels, mask = torch.rand(1, 3, SIDE, SIDE, generator=draw) * 2 - 1, torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 6:20, 8:30] = 1
    parts = ([[Span(PROMPT)]], [[Span(NEGATIVE)]]) if parsed else None
    texts = Texts(prompt=PROMPT, negative=NEGATIVE, words=PROMPT, parts=parts)
    return EditInputs(texts=texts, pixels=pixels, mask_pixels=mask, mask_latent=F.max_pool2d(mask, 2), options=options, task=task)


def mixed(published: Published, a: str, b: str, fitting: float) -> Tensor:
    return fitting * published.task(a) + (1 - fitting) * published.task(b)


@pytest.mark.parametrize("parsed", [False, True])
@pytest.mark.parametrize("task", TOLD)
def test_what_base_and_branch_are_told(task: Task, parsed: bool, backbone: Backbone, published: Published) -> None:
    a, b, not_a, not_b, behind = TOLD[task]
    for fitting in (1.0, 0.6, 0.0) if task == "shape" else (1.0,):
        pair = powerpaint_v2.condition(backbone, inputs(task, Options(fitting=fitting), parsed=parsed))
        for given, prompt, states in (
            (pair.conditional, PROMPT + behind, mixed(published, a, b, fitting)),
            (pair.unconditional, NEGATIVE, mixed(published, not_a, not_b, fitting)),
        ):
            (control,) = given.controls
            assert control is not None
            assert control.states is not None
            assert given.text is not None
            assert (control.states - states).abs().max() < 1e-5
            assert (given.text.states - published.told(prompt)).abs().max() < 1e-5


def test_the_ends_of_the_fitting_degree_are_the_prompts_themselves(backbone: Backbone) -> None:
    tasks = backbone.branch_tasks
    assert tasks is not None
    said = tasks.words.prompts["shape"]
    for fitting, around in ((1.0, said.a), (0.0, said.b)):
        pair = powerpaint_v2.condition(backbone, inputs("shape", Options(fitting=fitting)))
        (control,) = pair.conditional.controls
        assert control is not None
        assert control.states is not None
        assert torch.equal(control.states, tasks.encode(around))


@pytest.mark.parametrize("task", ["shape", "remove"])
def test_an_edit_is_the_published_arithmetic(task: Task, backbone: Backbone, published: Published) -> None:
    """The whole loop, with DDIM: the branch sees the scaled latents, a black hole and what is kept."""
    fitting = 0.7 if task == "shape" else 1.0
    options = Options(blend=False, fitting=fitting, timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False)
    edit = inputs(task, options)
    draw = torch.Generator().manual_seed(9)
    eps = torch.randn(1, 4, CELLS, CELLS, generator=draw)

    pipe: Any = backbone.autoencoder.vae
    hole = torch.where(edit.mask_pixels < 0.5, edit.pixels, -1.0)
    code = pipe.config.scaling_factor * pipe.encode(hole).latent_dist.mean
    behind = torch.cat([code, 1 - edit.mask_pixels[..., ::2, ::2]], dim=1)
    a, b, not_a, not_b, words = TOLD[task]
    scheduler = DDIMScheduler.from_config(
        {**backbone.traits.scheduler_config, "timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}
    )
    scheduler.set_timesteps(STEPS)
    x = eps
    for t in scheduler.timesteps:
        with_prompt = published.predicted(x, behind, t, PROMPT + words, mixed(published, a, b, fitting))
        without = published.predicted(x, behind, t, NEGATIVE, mixed(published, not_a, not_b, fitting))
        x = scheduler.step(without + SCALE * (with_prompt - without), t, x).prev_sample

    class Drawn:
        def draw(self) -> Tensor:
            return eps

    plan = powerpaint_v2.plan(backbone.traits, Sampling(scheduler="ddim", steps=STEPS), options)
    model = Model(
        denoiser=backbone.denoiser,
        pair=powerpaint_v2.condition(backbone, edit),
        guidance=guidance_of(backbone.traits, SCALE),
    )
    source = backbone.autoencoder.encode(edit.pixels)
    given = EditTask(source=source, start=source, mask=edit.mask_latent, seeds=(0,), plan=plan, options=options)
    made = powerpaint_v2.run(model, given, silent, Drawn())  # type: ignore[arg-type]
    assert (made - x).abs().max() < TOLERANCE
    assert (made - powerpaint_v2.run(model.without_branch(), given, silent, Drawn())).abs().max() > 0.1  # type: ignore[arg-type]
