"""Training of the embedded cascade: from models that it is born of, of their change alone, loaded as it was trained."""

import copy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel
from torch import Tensor
from torch.nn import functional as F

from sfumato import Editor
from sfumato.backbones.base import Conditions
from sfumato.backbones.embedded_glide import CLASS_NAME, Networks, digest
from sfumato.backbones.loading import load
from sfumato.embedded.adapter import Adapter
from sfumato.errors import BackboneError
from sfumato.methods.finetuned.glide import enlarged, kept, quantised, reduced, seen
from sfumato.training import glide, pixel
from sfumato.training.adapting import frozen, with_class_name
from sfumato.training.autoencoder import to_pixels
from tests import tiny_models

CPU = torch.device("cpu")
COUNT, SIDE = 6, 64


def tiny_pixel(folder: Path) -> Path:
    """A pixel model over patches, as the embedded one."""
    blocks = {"block_out_channels": (16, 16), "layers_per_block": 1, "norm_num_groups": 8}
    with tiny_models.seeded(11):
        unet = UNet2DModel(
            sample_size=16,
            in_channels=48,
            out_channels=48,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            **blocks,
        )
    DDPMPipeline(unet=unet, scheduler=pixel.make_scheduler()).save_pretrained(folder)
    return folder


class Source:
    """Pictures of one colour each, whose latents are another turn of their patches."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.images = np.broadcast_to(rng.integers(0, 255, (COUNT, 1, 1, 3), np.uint8), (COUNT, SIDE, SIDE, 3)).copy()
        patches = F.pixel_unshuffle(reduced(to_pixels(self.images)), 2)
        axes = torch.linalg.svd(patches.transpose(0, 1).flatten(1)).U[:, :8]  # of all that differs
        turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0))).Q
        self.latents = torch.einsum("zp, nphw -> nzhw", turn @ axes.mT, patches)

    def draw(self, index: int, rng: np.random.Generator) -> Any:
        return self.images[index], None


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Of a denoiser with all of its model, and of a pixel model inside, as in a folder of a model of one's own."""
    model = tiny_models.tiny_embedded(tmp_path / "model")
    return model, tiny_pixel(model / "pixel")


@pytest.fixture
def course(folders: tuple[Path, Path]) -> Any:
    """As `AdapterTraining` holds them."""
    torch.manual_seed(0)
    model, pixels = folders
    denoiser = frozen(tiny_models.tiny_unet(sample_size=8, in_channels=8, out_channels=8).from_pretrained(model / "unet"), CPU)
    network = frozen(glide.born(denoiser, pixels, glide.turn_of(Source())), CPU)  # type: ignore[arg-type]
    adapter = Adapter(network, digest(model, pixels), 4, glide.WHOLE)
    return SimpleNamespace(network=network, adapter=adapter)


@pytest.fixture
def given() -> dict[str, Tensor]:
    pixels = to_pixels(Source().images)
    mask = torch.zeros(COUNT, 1, SIDE, SIDE)
    mask[..., 16:48, 16:48] = 1
    return {"pixels": pixels, "mask": mask}


def save(course: Any, folder: Path) -> Path:
    course.adapter.save(folder)
    with_class_name(CLASS_NAME)(folder)
    return folder


def test_patches_are_turned_to_latents() -> None:
    source = Source()
    turn = glide.turn_of(source)  # type: ignore[arg-type]
    torch.testing.assert_close(turn @ turn.mT, torch.eye(8), atol=1e-5, rtol=1e-5)  # noise stays as strong as it is
    patches = F.pixel_unshuffle(reduced(to_pixels(source.images)), 2)
    torch.testing.assert_close(torch.einsum("zp, nphw -> nzhw", turn, patches), source.latents, atol=1e-4, rtol=1e-4)


def test_both_start_as_what_they_are_born_of(folders: tuple[Path, Path]) -> None:
    model, pixels = folders
    turn = glide.turn_of(Source())  # type: ignore[arg-type]
    denoiser: Any = tiny_models.tiny_unet(sample_size=8).from_pretrained(model / "unet")
    upsampler = UNet2DModel.from_pretrained(pixels / "unet")
    time, states, behind = torch.tensor(300.0), torch.randn(1, 5, tiny_models.TEXT_WIDTH), torch.randn(2, 112, 16, 16)
    patches, x = torch.randn(2, 12, 8, 8), torch.randn(2, 48, 16, 16)
    latents = torch.einsum("zp, nphw -> nzhw", turn, patches)
    with torch.no_grad():
        velocity = denoiser(latents, time, states.expand(2, -1, -1)).sample
        clean = upsampler(x, time).sample
        network = glide.born(denoiser, pixels, turn)
        base = network("base", torch.cat([patches, behind[:, :16, :8, :8]], 1), time, states.expand(2, -1, -1))
        torch.testing.assert_close(base, torch.einsum("zp, nzhw -> nphw", turn, velocity), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(network("upsampler", torch.cat([x, behind], 1), time), clean, atol=1e-5, rtol=1e-4)


def losses_of(course: Any, given: dict[str, Tensor], hidden: bool = False) -> list[Tensor]:
    """Of base and upsampler; if hidden, of pictures of which nothing is kept, at the same places of the loss."""
    states, weights = torch.ones(COUNT, 5, tiny_models.TEXT_WIDTH), torch.ones(COUNT, 1, 8, 8)
    mask = torch.ones_like(given["mask"]) if hidden else given["mask"]
    made = []
    for loss in (partial(glide.base_loss, weights=weights, states=states), glide.upsampler_loss):
        torch.manual_seed(1)  # the same levels, noise and pieces, so that losses compare
        made.append(loss(course, given["pixels"], mask))
    return made


@pytest.mark.slow
def test_the_losses_fall_and_what_they_are_born_of_is_left(course: Any, given: dict[str, Tensor]) -> None:
    before = copy.deepcopy(course.network.state_dict())
    optimizer, losses = torch.optim.AdamW(course.adapter.parameters(), 5e-3), []
    for _ in range(30):
        both = losses_of(course, given)
        sum(both).backward()  # type: ignore[union-attr]
        losses.append([loss.item() for loss in both])
        assert all(weight.grad is None for weight in course.network.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert all(last < 0.8 * first for first, last in zip(losses[0], losses[-1], strict=True))
    assert all(torch.equal(weight, before[name]) for name, weight in course.network.state_dict().items())
    with torch.no_grad():
        blind = losses_of(course, given, hidden=True)
    assert blind[0] > 1.1 * losses[-1][0]  # it looks


def test_it_is_loaded_and_acts_as_it_was_trained(course: Any, folders: tuple[Path, Path]) -> None:
    with torch.no_grad():
        for weight in course.adapter.parameters():
            weight.copy_((weight + 0.05 * torch.randn_like(weight)).half())  # as the file holds it
    folder = save(course, folders[0])
    backbone = load(str(folder), device="cpu", dtype="float32")
    traits = backbone.traits
    assert (traits.family, traits.resolution, traits.prediction) == ("embedded-glide", 64, "v_prediction")
    assert traits.upsampler is not None
    assert traits.upsampler["prediction_type"] == "sample"
    assert backbone.text_encoder is not None
    (text,) = backbone.text_encoder.encode(["a red ball"])
    picture, x = torch.rand(1, 3, SIDE, SIDE) * 2 - 1, torch.randn(1, 3, SIDE, SIDE)
    keep = kept(torch.ones(1, 1, SIDE, SIDE).triu())
    behind = {16: seen(reduced(picture), keep), SIDE: seen(picture, F.interpolate(keep, SIDE), quantised(reduced(picture)))}
    for side, part, patch, states in ((16, "base", 2, (text.states,)), (SIDE, "upsampler", 4, ())):
        noisy = x[..., :side, :side]
        given = F.pixel_unshuffle(torch.cat([noisy, behind[side]], 1), patch)
        with torch.no_grad():
            trained = F.pixel_shuffle(course.adapter.call(course.network, part, given, torch.tensor(500.0), *states), patch)
        made = backbone.denoiser(noisy, 500.0, Conditions(text=text, channels=behind[side])).prediction
        torch.testing.assert_close(made, trained, atol=1e-5, rtol=1e-4)


def test_it_edits(course: Any, folders: tuple[Path, Path], picture_file: Path, mask_file: Path) -> None:
    editor = Editor(str(save(course, folders[0])), device="cpu", dtype="float32")
    given: dict[str, Any] = {"image": picture_file, "mask": mask_file, "prompt": "a red ball", "rank": "none", "steps": 2}
    together = editor.edit(**given, n=2, seed=3, upsample_steps=2)
    assert together.request.method == "glide"
    alone = editor.edit(**given, n=1, seed=4, upsample_steps=2)
    assert np.abs(np.asarray(together.images[1], int) - np.asarray(alone.images[0], int)).max() <= 1


def test_one_of_other_weights_is_refused(course: Any, folders: tuple[Path, Path]) -> None:
    folder = save(course, folders[0])
    other = UNet2DModel.from_pretrained(folders[1] / "unet")
    with torch.no_grad():
        other.conv_out.bias.add_(1)
    other.save_pretrained(folders[1] / "unet")
    with pytest.raises(BackboneError) as caught:
        load(str(folder), device="cpu", dtype="float32")
    assert caught.value.code == "adapter-mismatch"


def test_the_adapter_of_the_embedded_models_is_small(tmp_path: Path) -> None:
    """Of networks as large as they are, on no device."""
    from diffusers import UNet2DConditionModel

    from sfumato.backbones.hub import WEIGHTS

    with torch.device("meta"):
        denoiser = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(WEIGHTS / "unet"))
        network = Networks(denoiser, pixel.make_unet())
        adapter = Adapter(network, "ab" * 32, glide.RANK, glide.WHOLE)
    assert 2 * sum(weight.numel() for weight in adapter.parameters()) < 5.5e6  # bytes in float16


def test_the_picture_that_the_upsampler_reads_is_smooth() -> None:
    """Bilinear, its corners those of the pixels: the mean of each cell of a ramp is the small picture's pixel."""
    small = torch.arange(8.0).expand(1, 3, 8, 8)
    large = enlarged(small)
    torch.testing.assert_close(F.avg_pool2d(large, 4)[..., 1:-1], small[..., 1:-1])
