"""Background reconstruction: each way keeps its promise, and none touches the editor's weights."""

import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import torch
from diffusers import AsymmetricAutoencoderKL, AutoencoderKL
from torch import Tensor

from sfumato.backbones.autoencoder import seen_by
from sfumato.backbones.base import Seen
from sfumato.background.decoder_local import reconstruct as solve_locally
from sfumato.background.decoder_solve import reconstruct as solve
from sfumato.background.fitting import weighted_error
from sfumato.background.poisson import reconstruct as poisson
from sfumato.background.registry import BACKGROUNDS
from sfumato.embedded.autoencoder import PatchAutoencoder
from sfumato.errors import Cancelled, Unsupported
from sfumato.metrics.border import measure, seam_ratio
from sfumato.request import EditRequest

SIDE = 48


@dataclass
class TinyAutoencoder:
    """What reconstructions use, around an autoencoder of diffusers."""

    vae: Any
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    notes: list[str] = field(default_factory=list)

    def unscale(self, latents: Tensor) -> Tensor:
        return latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0)

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        assert generator is None
        code = self.vae.encode(pixels.to(self.dtype)).latent_dist.mode()
        return ((code - (self.vae.config.shift_factor or 0)) * self.vae.config.scaling_factor).float()

    def decode(self, latents: Tensor, seen: Seen | None = None) -> Tensor:
        code = self.unscale(latents).to(self.dtype)
        return self.vae.decode(code, **seen_by(self.vae, seen, code)).sample.float().clamp(-1, 1)

    def preview(self, latents: Tensor) -> Tensor:
        return self.decode(latents)


@dataclass
class Case:
    autoencoder: TinyAutoencoder
    latents: Tensor
    decoded: Tensor
    source: Tensor
    mask: Tensor

    def arguments(self) -> tuple[Any, Tensor, Tensor, Tensor, Tensor]:
        return self.autoencoder, self.latents, self.decoded, self.source, self.mask

    def error(self, pixels: Tensor, i: int = 0) -> float:
        return float(weighted_error(pixels[i : i + 1], self.decoded[i : i + 1], self.source, self.mask))


def pictures(n: int, seed: int) -> Tensor:
    """Gradients with grain, in [-0.7, 0.7]: (n, 3, SIDE, SIDE)."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(-0.5, 0.5, SIDE)
    slopes = torch.rand(n, 3, 2, generator=generator) - 0.5
    smooth = slopes[..., :1, None] * ramp[:, None] + slopes[..., 1:, None] * ramp
    return (smooth + 0.1 * torch.randn(n, 3, SIDE, SIDE, generator=generator)).clamp(-0.7, 0.7)


@torch.no_grad()
def make(kind: str, dtype: torch.dtype = torch.float32, n: int = 1) -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae: Any
        if kind == "kl":
            widths, blocks = (8, 8, 8), 3
            down, up = ("DownEncoderBlock2D",) * blocks, ("UpDecoderBlock2D",) * blocks
            vae = AutoencoderKL(
                block_out_channels=widths, down_block_types=down, up_block_types=up, latent_channels=4, norm_num_groups=4
            )
        elif kind == "asymmetric":
            down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
            sides = {f"{way}_block_out_channels": (8, 16, 32, 32) for way in ("down", "up")}
            vae = AsymmetricAutoencoderKL(down_block_types=down, up_block_types=up, norm_num_groups=4, **sides)
            vae.register_to_config(shift_factor=None)
        else:
            vae = PatchAutoencoder(latent_channels=4, block_out_channels=(8, 8, 8, 8))
            vae.start_from_patches(pictures(4, 5))
            if kind == "seeing":
                vae = vae.with_sight((8, 8, 8, 8))
                for weight in vae.decoder.seeing.parameters():
                    weight.add_(0.05 * torch.randn_like(weight))
    autoencoder = TinyAutoencoder(vae.to(dtype).eval(), dtype)
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 10:31, 14:40] = 1
    latents = autoencoder.encode(pictures(n, 1))
    source = pictures(1, 2)
    return Case(autoencoder, latents, autoencoder.decode(latents, Seen(pixels=source, mask=mask)), source, mask)


@pytest.fixture(params=["kl", "patch"])
def case(request: pytest.FixtureRequest) -> Case:
    return make(request.param)


def test_table_offers_what_a_request_can_ask_for() -> None:
    asked = EditRequest.model_fields["background"].annotation
    names = {name for part in get_args(asked) for name in get_args(part)}
    assert set(BACKGROUNDS) == names
    assert all(callable(card.load()) and card.description and card.cost for card in BACKGROUNDS.values())


def test_table_is_listed_without_torch() -> None:
    code = "import sys, sfumato.background.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", list(BACKGROUNDS))
def test_weights_are_as_found_and_result_is_clean(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.background.fitting.STEPS", 3)
    case = make("kl", dtype, n=2)
    vae = case.autoencoder.vae
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    done: list[tuple[int, int]] = []
    with torch.inference_mode():
        case.latents = case.latents * 1.0  # born in inference mode, as the editor's are
        pixels = BACKGROUNDS[name].load()(*case.arguments(), watch=lambda *at: done.append(at))
    assert pixels[:, :3].shape == case.decoded.shape
    assert pixels.dtype == torch.float32
    assert pixels.isfinite().all()
    assert pixels.abs().max() <= 1
    assert done[-1][0] == done[-1][1]
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in vae.parameters())
    assert not any(module._forward_hooks for module in vae.modules())


@pytest.mark.parametrize("name", ["latents", "decoder", "decoder-solve", "decoder-local"])
def test_cancelling_leaves_the_weights(name: str, case: Case) -> None:
    vae = case.autoencoder.vae
    before = {key: value.clone() for key, value in vae.state_dict().items()}

    def stop(done: int, total: int) -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        BACKGROUNDS[name].load()(*case.arguments(), watch=stop)
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())
    assert all(parameter.grad is None for parameter in vae.parameters())


@pytest.mark.parametrize("name", ["latents", "decoder", "decoder-solve", "decoder-local"])
def test_fitting_lowers_the_papers_objective(name: str, case: Case) -> None:
    assert case.error(BACKGROUNDS[name].load()(*case.arguments())) < case.error(case.decoded)


@pytest.mark.parametrize("kind", ["asymmetric", "seeing"])
@pytest.mark.parametrize("name", ["latents", "decoder", "decoder-solve", "decoder-local"])
def test_fitting_begins_with_what_the_decoder_saw(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.background.fitting.STEPS", 3)
    case = make(kind)
    unseeing = case.autoencoder.decode(case.latents)
    assert not torch.allclose(unseeing, case.decoded, atol=1e-2)
    fitted = BACKGROUNDS[name].load()(*case.arguments())
    assert case.error(fitted) < case.error(case.decoded)
    outside = (1 - case.mask).expand_as(fitted) > 0
    if name == "decoder":  # three steps at 1e-4 are short ones
        assert (fitted - case.decoded)[outside].abs().mean() < (fitted - unseeing)[outside].abs().mean() / 2


def test_objective_is_the_papers() -> None:
    output, decoded, mask = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    mask[..., :1, :] = 1  # a quarter, averaged over the whole
    assert float(weighted_error(output, decoded, 2 * decoded, mask)) == pytest.approx(0.25 + 100 * 0.75 * 4)


def test_predictions_are_fitted_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.background.fitting.STEPS", 3)
    both = make("patch", n=2)
    for name in ("latents", "decoder", "decoder-solve", "decoder-local"):
        run = BACKGROUNDS[name].load()
        alone = run(both.autoencoder, both.latents[1:], both.decoded[1:], both.source, both.mask)
        torch.testing.assert_close(run(*both.arguments())[1:], alone)


def adam_on_last_convolution(case: Case, steps: int = 200) -> float:
    """What gradient descent reaches on the same weights: the reference for the closed form."""
    vae = case.autoencoder.vae
    caught: list[Tensor] = []
    hook = vae.decoder.conv_out.register_forward_hook(lambda module, inputs, output: caught.extend((inputs[0], output)))
    with torch.no_grad():
        rest = vae.decode(case.autoencoder.unscale(case.latents)).sample - caught[1]
    hook.remove()
    conv = torch.nn.Conv2d(caught[0].shape[1], 3, 3, padding=1)
    conv.load_state_dict(vae.decoder.conv_out.state_dict())
    optimiser = torch.optim.Adam(conv.parameters(), lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        error = weighted_error(conv(caught[0]) + rest, case.decoded, case.source, case.mask)
        error.backward()
        optimiser.step()
    return float(weighted_error((conv(caught[0]) + rest).detach(), case.decoded, case.source, case.mask))


def test_solving_is_no_worse_than_descending(case: Case) -> None:
    assert case.error(solve(*case.arguments())) <= 1.01 * adam_on_last_convolution(case)


def test_solving_in_bands_changes_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = solve(*case.arguments())
    monkeypatch.setattr("sfumato.background.decoder_solve.BAND_NUMBERS", 1)
    torch.testing.assert_close(solve(*case.arguments()), at_once, atol=1e-4, rtol=0)


def test_solving_needs_a_last_convolution(case: Case) -> None:
    case.autoencoder.vae.decoder.conv_out = torch.nn.Identity()
    with pytest.raises(Unsupported, match="conv_out"):
        solve(*case.arguments())


def test_paste_is_exact(case: Case) -> None:
    pixels = BACKGROUNDS["paste"].load()(*case.arguments())
    outside = (case.mask == 0).expand_as(pixels)
    assert torch.equal(pixels[outside], case.source[outside])
    assert torch.equal(pixels[~outside], case.decoded[~outside])


@pytest.mark.parametrize("name", list(BACKGROUNDS))
def test_those_that_paste_say_so(name: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a method itself makes of the surroundings is measured without them."""
    monkeypatch.setattr("sfumato.background.fitting.STEPS", 3)
    pixels = BACKGROUNDS[name].load()(*case.arguments())
    if pixels.shape[1] == 4:  # a layer
        pixels = torch.lerp(case.source, pixels[:, :3], (pixels[:, 3:] + 1) / 2)
    far = (..., slice(None), slice(2))  # columns that no mask and no bounding box reaches
    assert BACKGROUNDS[name].pastes == bool(((pixels - case.source)[far].abs() < 2 / 255).all())


def test_none_leaves_the_decoded_picture(case: Case) -> None:
    assert torch.equal(BACKGROUNDS["none"].load()(*case.arguments()), case.decoded.clamp(-1, 1))


def test_blurred_blending(case: Case) -> None:
    """The edit inside, the source more than 10 pixels away, and between the two the published weights."""
    pixels = BACKGROUNDS["blurred"].load()(*case.arguments())
    hole = case.mask[0, 0].numpy()
    away = cv2.distanceTransform((hole == 0).astype(np.uint8), cv2.DIST_C, 3) > 10
    assert 0 < away.sum() < (hole == 0).sum()
    assert torch.equal(pixels[:, :, hole == 1], case.decoded[:, :, hole == 1])
    assert torch.equal(pixels[:, :, away], case.source[:, :, away].expand(len(pixels), -1, -1))
    blurred = torch.from_numpy(cv2.GaussianBlur(hole, (21, 21), 0))
    weight = 1 - (1 - case.mask) * (1 - blurred)
    torch.testing.assert_close(pixels, case.source * (1 - weight) + case.decoded * weight, rtol=0, atol=1e-6)


def soft(seed: int) -> Tensor:
    return torch.nn.functional.avg_pool2d(pictures(1, seed), 5, 1, 2)


BOXES = [  # even and odd sides, a stroke, one pixel, two corners, a band from side to side, everything
    *[(10, 30, 12, 33), (9, 30, 12, 32), (20, 21, 5, 40), (20, 21, 20, 21)],
    *[(0, 20, 0, 15), (30, SIDE, 7, SIDE), (0, SIDE, 20, 35), (0, SIDE, 0, SIDE)],
]


@pytest.mark.parametrize("box", BOXES)
def test_poisson_of_a_picture_into_itself_moves_nothing(box: tuple[int, int, int, int]) -> None:
    mask, source = torch.zeros(1, 1, SIDE, SIDE), pictures(1, 4)
    mask[..., box[0] : box[1], box[2] : box[3]] = 1
    pixels = poisson(None, None, source, source, mask)  # type: ignore[arg-type]
    assert (pixels - source).abs().max() <= 2.5 / 127.5


@pytest.mark.parametrize("box", BOXES[:-1])
def test_poisson_removes_a_tint_but_keeps_the_edit(box: tuple[int, int, int, int]) -> None:
    source = soft(4)
    edit = source + 0.15
    rows, columns = slice(box[0], box[1]), slice(box[2], box[3])
    middle = (box[0] + box[1]) // 2, (box[2] + box[3]) // 2
    edit[..., middle[0], middle[1]] += 0.4
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., rows, columns] = 1
    pixels = poisson(None, None, edit, source, mask)  # type: ignore[arg-type]
    assert (pixels - source)[..., middle[0], middle[1]].min() > 0.15
    # what is left of the tint, away from the spot
    mask[..., max(0, middle[0] - 2) : middle[0] + 3, max(0, middle[1] - 2) : middle[1] + 3] = 0
    if mask.any():
        assert (((pixels - source) * mask).sum() / (3 * mask.sum())).abs() < 0.1 * 0.15


def test_measure_counts_levels_and_seams() -> None:
    source = torch.full((1, 3, 8, 8), 100 / 127.5 - 1)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    assert measure(source + 0.9 * mask, source, mask)["background_psnr"] == float("inf")
    figures = measure(source + 3 / 127.5 * (1 - mask), source, mask)
    assert figures["background_max_error"] == 3
    assert figures["background_psnr"] == pytest.approx(20 * np.log10(255 / 3))
    assert figures["seam_ratio"] == pytest.approx(4)  # three levels and the floor, where the source is flat


def test_seam_ratio_forgives_what_the_source_has() -> None:
    generator = np.random.default_rng(0)
    source = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    assert seam_ratio(source, source, mask) == 1
    assert seam_ratio(source, source, np.ones_like(mask)) == 1


def test_solving_locally_is_nearer_to_the_objective(case: Case) -> None:
    assert case.error(solve_locally(*case.arguments())) < case.error(solve(*case.arguments()))


def test_solving_locally_leaves_a_perfect_picture_alone() -> None:
    case = make("patch")
    assert case.decoded.abs().max() < 1  # it was not clamped
    case.source = case.decoded.clone()
    torch.testing.assert_close(solve_locally(*case.arguments()), case.decoded, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["decoder-solve", "decoder-local"])
def test_closed_forms_copy_no_decoder_and_decode_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make("kl", n=2)
    calls: list[int] = []
    case.autoencoder.vae.decoder.register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr("sfumato.background.fitting.copy.deepcopy", lambda *_: pytest.fail("the decoder was copied"))
    BACKGROUNDS[name].load()(*case.arguments())
    assert len(calls) == 2  # one for each prediction
