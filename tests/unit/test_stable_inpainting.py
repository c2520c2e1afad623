"""Models that read mask and masked picture: what they are given, by every method, and when a method refuses them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sfumato import Editor
from sfumato.backbones.base import Conditions, Denoiser, Output
from sfumato.errors import OptionError, Unsupported
from sfumato.masks.latent import to_latent
from sfumato.methods.conditioning import inpainting_channels
from sfumato.pictures.tensors import to_tensor
from tests import tiny_models
from tests.guided import Calling

SIDE = 64  # which an edit does not resize
INSIDE = np.s_[17:40, 21:51]  # of the mask
FEW: dict[str, dict[str, Any]] = {"repaint": {"jump_length": 2, "jump_resamples": 2}, "lanpaint": {"langevin_steps": 1}}


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    return Editor(str(tiny_models.tiny_inpainting(tmp_path_factory.mktemp("models") / "inpainting")), dtype="float32")


def seen(editor: Editor, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> tuple[Any, list[tuple[Tensor, Tensor]]]:
    """The result of an edit, and latents and further channels of every call of the denoiser, of the first row."""
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(denoiser: Denoiser, x: Tensor, timestep: float, given: Conditions) -> Output:
        assert given.channels is not None
        calls.append((x[:1].clone(), given.channels[:1].clone()))
        return denoiser(x, timestep, given)

    monkeypatch.setattr(editor, "accelerators", (Calling(keep),))
    return editor.edit(**fields, window="whole"), calls


@pytest.fixture
def fields() -> dict[str, Any]:
    """A picture and a mask that the model gets as they are."""
    levels = np.zeros((SIDE, SIDE), np.uint8)
    levels[INSIDE] = 255
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    common = {"prompt": "a red ball", "steps": 3, "rank": "none", "background": "paste", "n": 1}
    return {"image": image, "mask": Image.fromarray(levels), **common}


def repainted(fields: dict[str, Any]) -> dict[str, Any]:
    """The same edit of a picture with other colours under the mask."""
    colours = np.array(fields["image"])
    colours[INSIDE] = 255 - colours[INSIDE]
    return {**fields, "image": Image.fromarray(colours)}


@pytest.mark.parametrize(
    ("method", "soft"),
    [
        ("stable-inpainting", False),
        ("stable-inpainting", True),
        ("blended-latent-diffusion", False),
        ("blended-latent-diffusion", True),
        ("repaint", False),
        ("lanpaint", False),
    ],
)
def test_every_method_shows_the_model_the_mask_and_not_what_is_under_it(
    method: str, soft: bool, inpainting: Editor, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    levels, source = np.array(fields["mask"]), np.asarray(fields["image"])
    if soft:
        levels[20:30, 25:40] = 120
        fields |= {"soft_mask": True, "mask": Image.fromarray(levels)}
    fields |= {"method": method, **FEW.get(method, {})}
    result, calls = seen(inpainting, monkeypatch, **fields)
    _, others = seen(inpainting, monkeypatch, **repainted(fields))

    hole = torch.from_numpy((levels > 0).astype(np.float32))[None, None]
    masked = to_tensor(source) * (1 - hole)
    expected = torch.cat([hole[..., ::2, ::2], inpainting.backbone.autoencoder.encode(masked)], dim=1)
    for (_, channels), (_, other) in zip(calls, others, strict=True):
        assert torch.equal(channels, expected)
        assert torch.equal(channels, other)
    kept = np.asarray(result.mask) == 0
    assert np.array_equal(np.asarray(result.images[0])[kept], source[kept])
    assert not np.array_equal(np.asarray(result.images[0]), source)


def test_from_noise_nothing_that_the_model_sees_depends_on_what_is_masked(
    inpainting: Editor, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for fraction, same in ((0.0, True), (0.4, False)):
        given = {**fields, "blend": False, "start_fraction": fraction}
        _, calls = seen(inpainting, monkeypatch, **given)
        _, others = seen(inpainting, monkeypatch, **repainted(given))
        latents = [torch.cat([x for x, _ in run]) for run in (calls, others)]
        assert torch.equal(*latents) is same


def test_a_fill_is_where_it_starts_from(inpainting: Editor, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    starts = [seen(inpainting, monkeypatch, **fields, fill=fill)[1][0][0] for fill in ("original", "blur", "neutral")]
    noise = torch.randn(starts[0].shape, generator=torch.Generator().manual_seed(0))
    inside = to_latent(np.array(fields["mask"]) // 255, 2).bool().expand_as(noise)
    assert torch.equal(starts[0][inside], noise[inside])
    assert not any(torch.equal(start[inside], noise[inside]) for start in starts[1:])


@pytest.mark.parametrize("task", ["edit", "remove", "fill", "outpaint"])
def test_a_model_for_inpainting_does_every_task_by_its_own_method_from_noise(
    task: str, inpainting: Editor, fields: dict[str, Any]
) -> None:
    fields["task"] = task
    if task != "edit":
        fields["prompt"] = ""
    if task == "outpaint":
        fields |= {"expand": (16, 0, 0, 0), "mask": None}
    request = inpainting.edit(**fields).request
    assert (request.method, request.start_fraction) == ("stable-inpainting", 0.0)
    assert request.guidance_scale == (1.0 if task == "fill" else 7.5)


def test_a_soft_mask_that_would_do_nothing_is_refused(inpainting: Editor, fields: dict[str, Any]) -> None:
    fields |= {"mask": Image.fromarray(np.full((SIDE, SIDE), 120, np.uint8)), "soft_mask": True}
    for options in ({"blend": False}, {"preset": "diffusers"}):
        with pytest.raises(OptionError, match="soft mask acts through blending"):
            inpainting.edit(**fields, **options)
    assert inpainting.edit(**fields, preset="diffusers", blend=True).images


def test_a_model_that_reads_no_mask_says_what_is_needed(editor: Editor, request_fields: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=r"stable-inpainting needs a model that reads the mask.*--model"):
        editor.edit(**request_fields, method="stable-inpainting")


def test_xl_starts_from_the_noised_source(tmp_path: Path, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    editor = Editor(str(tiny_models.tiny_inpainting_xl(tmp_path / "xl")), dtype="float32")
    fields |= {"blend": False}
    _, calls = seen(editor, monkeypatch, **fields)
    _, others = seen(editor, monkeypatch, **repainted(fields))
    assert not torch.equal(calls[0][0], others[0][0])


def test_the_hole_is_grey_and_the_mask_nearest() -> None:
    pixels = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(2, 1, 8, 12)
    mask[0, :, 3:, 5:], mask[1, :, 1:4, :3] = 1, 1
    given: list[Tensor] = []

    def encode(masked: Tensor) -> Tensor:
        given.append(masked)
        return F.avg_pool2d(masked, 4).repeat(1, 2, 1, 1)[:, :4]

    channels = inpainting_channels(encode, pixels, mask)
    hole = mask.expand_as(pixels) == 1
    assert (given[0][hole] == 0).all()
    assert torch.equal(given[0][~hole], pixels[~hole])
    assert channels.shape == (2, 5, 2, 3)
    assert torch.equal(channels[:, :1], mask[..., ::4, ::4])
    assert torch.equal(channels[:, 1:], encode(given[0]))
