"""The embedded decoder that sees the picture around an edit."""

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato import Editor, examples
from sfumato.backbones.base import Seen
from sfumato.backbones.embedded import EmbeddedAutoencoder
from sfumato.backbones.hub import WEIGHTS
from sfumato.embedded.autoencoder import SEEING_WIDTHS, PatchAutoencoder
from sfumato.request import EditRequest

WIDTHS = (8, 16, 16, 16)
SIDE = 64


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def codes(n: int = 1) -> Tensor:
    return torch.randn(n, 8, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(1))


def picture(seed: int = 2) -> Tensor:
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def hole() -> Tensor:
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 10:41, 20:50] = 1
    return mask


def scattered(part: nn.Module) -> None:
    """Random weights also where they are zero before training, so that every layer has an effect."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for weight in part.parameters():
            weight.add_(0.05 * torch.randn_like(weight))


@pytest.fixture
def plain() -> PatchAutoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PatchAutoencoder(latent_channels=8, block_out_channels=WIDTHS).eval()
    scattered(model.decoder)
    return model


@pytest.fixture
def seeing(plain: PatchAutoencoder) -> PatchAutoencoder:
    model = plain.with_sight((4, 8, 8, 8)).eval()
    assert model.decoder.seeing is not None
    scattered(model.decoder.seeing)
    return model


def test_weights_without_the_part_load_and_decode_as_they_were() -> None:
    model = PatchAutoencoder.from_pretrained(WEIGHTS / "vae").float().eval()
    decoder, z = model.decoder, codes()
    assert model.sees or set(model.state_dict()) == set(load_file(WEIGHTS / "vae" / "diffusion_pytorch_model.safetensors"))
    with torch.no_grad():
        features = F.silu(nn.Sequential(*decoder.blocks)(decoder.conv_in(z)))
        drawn = decoder.linear(z) + decoder.conv_out(features)
        grain = model.grain.filter(F.silu(model.grain.weigh(features)) * torch.randn(1, 1, SIDE, SIDE, generator=noise()))
        assert torch.equal(model.picture(z), drawn)
        assert torch.equal(model.picture(z, noise()), drawn + grain)


def test_the_part_is_small() -> None:
    model = PatchAutoencoder(seeing_widths=SEEING_WIDTHS)
    assert model.decoder.seeing is not None
    assert sum(weight.numel() for weight in model.decoder.seeing.parameters()) <= 400_000


@torch.no_grad()
def test_an_untrained_part_changes_nothing(plain: PatchAutoencoder) -> None:
    start = plain.with_sight().eval()
    assert not plain.sees
    assert start.sees
    for draws in (lambda: None, noise):
        before = plain.picture(codes(2), draws())
        assert torch.equal(start.picture(codes(2), draws()), before)
        assert torch.equal(start.picture(codes(2), draws(), picture(), hole()), before)
        assert torch.equal(plain.picture(codes(2), draws(), picture(), hole()), before)  # which cannot see


@torch.no_grad()
def test_a_trained_part_changes_nothing_where_nothing_is_given(plain: PatchAutoencoder, seeing: PatchAutoencoder) -> None:
    plain.load_state_dict({name: weight for name, weight in seeing.state_dict().items() if ".seeing." not in name})
    assert torch.equal(seeing.picture(codes(), noise()), plain.picture(codes(), noise()))
    assert torch.equal(seeing.picture(codes(), image=picture()), plain.picture(codes()))  # and no mask


@torch.no_grad()
def test_what_is_in_the_hole_is_not_seen_and_what_is_around_it_is(seeing: PatchAutoencoder) -> None:
    def seen(image: Tensor, mask: Tensor) -> Tensor:
        return seeing.picture(codes(), noise(), image, mask)

    inside = torch.where(hole() > 0, picture(5), picture())
    outside = torch.where(hole() > 0, picture(), picture(5))
    assert torch.equal(seen(inside, hole()), seen(picture(), hole()))
    changed = (seen(outside, hole()) - seen(picture(), hole())).abs()
    assert changed[..., 15:35, 25:45].max() > 1e-3  # in the hole, too
    everywhere, nowhere = torch.ones_like(hole()), torch.zeros_like(hole())
    assert torch.equal(seen(picture(5), everywhere), seen(picture(), everywhere))
    assert not torch.allclose(seen(picture(5), nowhere), seen(picture(), nowhere), atol=1e-3)


@torch.no_grad()
def test_the_grain_sees_too(seeing: PatchAutoencoder) -> None:
    def grain(image: Tensor) -> Tensor:
        return seeing.picture(codes(), noise(), image, hole()) - seeing.picture(codes(), None, image, hole())

    part = seeing.decoder.seeing
    assert part is not None
    part.conv_out.weight.zero_()
    assert not torch.allclose(grain(picture(5)), grain(picture()), atol=1e-4)


@torch.no_grad()
def test_one_picture_is_seen_by_all_predictions_each_as_if_alone(seeing: PatchAutoencoder) -> None:
    several = seeing.picture(codes(3), noise(), picture(), hole())
    for i in range(3):
        torch.testing.assert_close(several[i : i + 1], seeing.picture(codes(3)[i : i + 1], noise(), picture(), hole()))
    each = seeing.picture(codes(3), noise(), picture().repeat(3, 1, 1, 1), hole().repeat(3, 1, 1, 1))
    torch.testing.assert_close(several, each)


def test_saved_weights_bring_the_part_along(seeing: PatchAutoencoder, tmp_path) -> None:
    seeing.save_pretrained(tmp_path)
    again = PatchAutoencoder.from_pretrained(tmp_path).eval()
    assert again.sees
    with torch.no_grad():
        expected = seeing.picture(codes(), noise(), picture(), hole())
        torch.testing.assert_close(again.picture(codes(), noise(), picture(), hole()), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_role_passes_on_what_is_seen(seeing: PatchAutoencoder) -> None:
    autoencoder = EmbeddedAutoencoder(seeing, name="test", device=torch.device("cpu"))
    code = autoencoder.unscale(codes(2))
    expected = torch.cat([seeing.picture(one, noise(), picture(), hole()) for one in code.split(1)]).clamp(-1, 1)
    assert torch.equal(autoencoder.decode(codes(2), Seen(pixels=picture(), mask=hole())), expected)
    plain = torch.cat([seeing.picture(one, noise()) for one in code.split(1)])
    assert torch.equal(autoencoder.decode(codes(2)), plain.clamp(-1, 1))


def test_an_edit_its_previews_and_its_animation_see_the_source(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    editor, calls = Editor(device="cpu", dtype="float32"), []
    decode = editor.backbone.autoencoder.decode

    def watched(latents: Tensor, seen: Seen | None = None) -> Tensor:
        calls.append(seen)
        return decode(latents, seen)

    monkeypatch.setattr(editor.backbone.autoencoder, "decode", watched)
    previews = []
    request = EditRequest(
        image=examples.SCENE, mask=examples.MASK, prompt="a red ball", n=1, steps=2, rank="none", background="paste"
    )
    prepared = editor.prepare(
        request, keep_frames=True, on_progress=lambda event: previews.append(event.preview()) if event.preview else None
    )
    editor.finish(prepared, editor.sample(prepared.samples), save_steps=tmp_path / "steps.gif")
    (window,) = prepared.windows
    assert len(calls) == 2 * len(previews) + 1 > 1  # as many frames as previews, and the picture itself
    assert all(seen is window.seen for seen in calls)
    assert window.seen is not None
    assert window.seen.pixels is window.inputs.pixels
    assert window.seen.mask is window.inputs.mask_pixels
