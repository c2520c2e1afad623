"""Autoencoders: given beside the model, with statistics of their latents, and overflowing."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AsymmetricAutoencoderKL, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from sfumato import Editor
from sfumato.backbones.base import Seen
from sfumato.backbones.loading import from_pipe
from sfumato.errors import BackboneError, ModelNotFound, UnsafeCheckpoint, Unsupported
from tests import tiny_checkpoints, tiny_models
from tests.unit.loading.helpers import SD1, load

WEIGHTS = "diffusion_pytorch_model.safetensors"


def pixels() -> torch.Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another autoencoder of the same shape, with a scale of its own."""
    folder = tmp_path_factory.mktemp("vae")
    with tiny_models.seeded(77):
        tiny_models.tiny_vae(scaling_factor=0.5).save_pretrained(folder)
    return folder


def compvis(folder: Path, file: Path, prefix: str = "") -> Path:
    weights = {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        renamed = tiny_checkpoints._compvis_vae(name)
        weights[prefix + renamed] = tensor[:, :, None, None] if "attn_1" in renamed and tensor.ndim == 2 else tensor
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)
    return file


def test_a_vae_from_a_folder_replaces_the_models_own(sd1: Path, other: Path) -> None:
    model, plain = load(sd1, vae=str(other)), load(sd1)

    code = model.autoencoder.vae.encode(pixels()).latent_dist.mode()
    assert torch.equal(model.autoencoder.vae.encoder.conv_in.weight, load_file(other / WEIGHTS)["encoder.conv_in.weight"])
    torch.testing.assert_close(model.autoencoder.encode(pixels()), code * 0.5)
    assert not torch.allclose(model.autoencoder.encode(pixels()), plain.autoencoder.encode(pixels()))


def test_a_whole_models_folder_gives_its_vae(sd1: Path, other: Path, copy: Path) -> None:
    shutil.copytree(other, copy / "vae", dirs_exist_ok=True)

    torch.testing.assert_close(load(sd1, vae=str(copy)).autoencoder.encode(pixels()), load(copy).autoencoder.encode(pixels()))


@pytest.mark.parametrize("form", ["published", "prefixed", "diffusers", "old"])
def test_a_vae_from_a_single_file_has_the_models_scale(form: str, sd1: Path, other: Path, tmp_path: Path) -> None:
    file = tmp_path / "vae.safetensors"
    if form in ("published", "prefixed"):
        compvis(other, file, "first_stage_model." if form == "prefixed" else "")
    else:
        renames = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"} if form == "old" else {}
        weights = load_file(other / WEIGHTS)
        for new, old in renames.items():
            weights = {name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): part for name, part in weights.items()}
        save_file(weights, file)

    model = load(sd1, vae=str(file))

    expected = load(sd1, vae=str(other)).autoencoder.encode(pixels()) / 0.5
    torch.testing.assert_close(model.autoencoder.encode(pixels()) / 0.18215, expected)


def test_a_single_file_without_vae_takes_one(sd1: Path, other: Path, cache: Path, tmp_path: Path) -> None:
    file = tiny_checkpoints.single_file(sd1, tmp_path / "model.safetensors")
    save_file({name: part for name, part in load_file(file).items() if not name.startswith("first_stage")}, file)
    bare = shutil.copytree(sd1, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    tiny_models.hub_cache(cache, SD1, Path(bare))

    with pytest.raises(Unsupported, match=r"holds no autoencoder.*--vae"):
        load(file)
    torch.testing.assert_close(
        load(file, vae=str(other)).autoencoder.vae.decoder.conv_in.weight, load_file(other / WEIGHTS)["decoder.conv_in.weight"]
    )


def test_what_is_no_fitting_vae_is_refused(sd1: Path, other: Path, tmp_path: Path) -> None:
    with tiny_models.seeded(1):
        tiny_models.tiny_vae(latent_channels=16).save_pretrained(tmp_path / "sixteen")
    compvis(tmp_path / "sixteen", tmp_path / "sixteen.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "none.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickled.ckpt")
    tiny_models.rewrite_json(Path(shutil.copytree(other, tmp_path / "tiny")) / "config.json", _class_name="AutoencoderTiny")

    for name in ("sixteen", "sixteen.safetensors"):
        with pytest.raises(Unsupported, match=r"code of 16 channels where .* works on 4"):
            load(sd1, vae=str(tmp_path / name))
    with pytest.raises(Unsupported, match="no autoencoder"):
        load(sd1, vae=str(tmp_path / "none.safetensors"))
    with pytest.raises(UnsafeCheckpoint):
        load(sd1, vae=str(tmp_path / "pickled.ckpt"))
    with pytest.raises(Unsupported, match="AutoencoderTiny"):
        load(sd1, vae=str(tmp_path / "tiny"))
    with pytest.raises(ModelNotFound, match="no autoencoder 'nowhere'"):
        load(sd1, vae="nowhere")
    with pytest.raises(Unsupported, match="--vae"):
        load("embedded", vae=str(other))
    with pytest.raises(Unsupported, match="takes no other autoencoder"):
        load(tiny_models.tiny_ldm(tmp_path / "ldm"), vae=str(other))


LEVELS: dict[str, Any] = {"block_out_channels": (8, 16, 32, 32), "norm_num_groups": 8}
BLOCKS: dict[str, Any] = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}


@pytest.fixture
def eighth(copy: Path) -> Path:
    """A Stable Diffusion 1 whose latents have 8 pixels a cell, as the published ones, whose seeing decoder knows no other."""
    with tiny_models.seeded(1):
        tiny_models.tiny_vae(**LEVELS, **BLOCKS).save_pretrained(copy / "vae")
    return copy


@pytest.fixture(scope="session")
def asymmetric(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder whose decoder sees the picture around the edit."""
    folder = tmp_path_factory.mktemp("asymmetric")
    widths = {f"{way}_block_out_channels": LEVELS["block_out_channels"] for way in ("down", "up")}
    with tiny_models.seeded(78):
        AsymmetricAutoencoderKL(norm_num_groups=8, **widths, **BLOCKS).save_pretrained(folder)
    return folder


def test_a_seeing_decoder_is_given_picture_and_mask(eighth: Path, asymmetric: Path) -> None:
    autoencoder = load(eighth, vae=str(asymmetric)).autoencoder
    published = AsymmetricAutoencoderKL.from_pretrained(asymmetric).eval()
    draws = torch.Generator().manual_seed(3)
    latents, shown = torch.randn(2, 4, 4, 4, generator=draws), torch.rand(1, 3, 32, 32, generator=draws) * 2 - 1
    hole = torch.zeros(1, 1, 32, 32)
    hole[..., 8:20, 5:25] = 1

    decoded = autoencoder.decode(latents, Seen(pixels=shown, mask=hole))

    both = {"image": shown.repeat(2, 1, 1, 1), "mask": hole.repeat(2, 1, 1, 1)}  # its mask is 1 in the hole, too
    with torch.no_grad():
        torch.testing.assert_close(decoded, published.decode(latents / 0.18215, **both).sample.clamp(-1, 1))
        torch.testing.assert_close(autoencoder.decode(latents), published.decode(latents / 0.18215).sample.clamp(-1, 1))


def test_a_seeing_decoder_sees_what_is_outside_the_mask_alone(eighth: Path, asymmetric: Path) -> None:
    autoencoder = load(eighth, vae=str(asymmetric)).autoencoder
    draws = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 4, 4, 4, generator=draws)
    first, second = torch.rand(2, 1, 3, 32, 32, generator=draws) * 2 - 1
    hole = torch.zeros(1, 1, 32, 32)
    hole[..., 8:20, 5:25] = 1

    def decoded(pixels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return autoencoder.decode(latents, Seen(pixels=pixels, mask=mask))

    nowhere = torch.zeros_like(hole)
    assert torch.equal(decoded(first, 1 - nowhere), decoded(second, 1 - nowhere))
    assert not torch.allclose(decoded(first, nowhere), decoded(second, nowhere), atol=1e-3)
    assert torch.equal(decoded(first, hole), decoded(torch.where(hole > 0, second, first), hole))
    assert not torch.allclose(decoded(first, hole), decoded(torch.where(hole > 0, first, second), hole), atol=1e-4)


def test_a_pipeline_with_a_seeing_decoder_edits(eighth: Path, asymmetric: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(
        eighth, safety_checker=None, vae=AsymmetricAutoencoderKL.from_pretrained(asymmetric)
    )
    editor = Editor.from_pipe(pipe)
    fields: dict[str, Any] = {"box": (32, 32, 64, 64), "prompt": "a ball", "steps": 2, "n": 1, "rank": "none"}
    image = Image.effect_noise((128, 128), 60).convert("RGB")

    for background in ("paste", "decoder-solve"):
        result = editor.edit(image=image, background=background, **fields)
        assert result.images[0].crop((0, 0, 128, 30)).tobytes() == image.crop((0, 0, 128, 30)).tobytes()


def test_a_seeing_decoder_of_other_latents_is_refused(sd1: Path, eighth: Path, asymmetric: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"8 pixels a cell.*those of .* \(2 pixels"):
        load(sd1, vae=str(asymmetric))
    file = shutil.copy(asymmetric / WEIGHTS, tmp_path / "asymmetric.safetensors")
    with pytest.raises(Unsupported, match=r"without its configuration; give its folder"):
        load(eighth, vae=str(file))
    tiny_models.rewrite_json(eighth / "vae/config.json", scaling_factor=0.13025)  # as of SDXL
    with pytest.raises(Unsupported, match=r"1\.x and 2\.x have them; those of .* scaled by 0\.13025"):
        load(eighth, vae=str(asymmetric))


def test_statistics_of_the_latents_are_honoured(copy: Path) -> None:
    mean, std = [-1.5, 1.2, 0.3, -0.4], [8.0, 6.0, 7.0, 5.0]
    tiny_models.rewrite_json(copy / "vae/config.json", latents_mean=mean, latents_std=std, scaling_factor=0.5)

    model = load(copy)
    code = model.autoencoder.vae.encode(pixels()).latent_dist.mode()
    expected = (code - torch.tensor(mean).view(1, 4, 1, 1)) * 0.5 / torch.tensor(std).view(1, 4, 1, 1)

    torch.testing.assert_close(model.autoencoder.encode(pixels()), expected)
    torch.testing.assert_close(model.autoencoder.unscale(expected), code)


@pytest.mark.parametrize(
    "changes",
    [
        {"latents_mean": [0.0] * 4},
        {"latents_std": [1.0] * 4},
        {"latents_mean": [0.0] * 3, "latents_std": [1.0] * 3},
        {"latents_mean": [0.0] * 4, "latents_std": [1.0, 1.0, 0.0, 1.0]},
        {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4, "shift_factor": 0.1},
    ],
)
def test_statistics_that_are_none_are_refused(changes: dict[str, Any], copy: Path) -> None:
    tiny_models.rewrite_json(copy / "vae/config.json", **changes)

    with pytest.raises(Unsupported, match="latents_mean"):
        load(copy)


def overflowing(sd1: Path, *, half: bool = True, damaged: bool = False) -> Any:
    """A pipeline whose decoder's last layers pass numbers that float16 cannot hold."""
    pipe = StableDiffusionPipeline.from_pretrained(sd1, safety_checker=None)
    pipe.vae.register_to_config(force_upcast=False)  # it does not say that it overflows
    decoder = pipe.vae.decoder
    with torch.no_grad():
        decoder.conv_norm_out.weight.fill_(4e4)
        decoder.conv_out.weight.mul_(float("nan") if damaged else 1e-4)
    return pipe.to(torch.float16) if half else pipe


def test_an_overflowing_autoencoder_decodes_in_float32_with_a_note(sd1: Path) -> None:
    half, whole = from_pipe(overflowing(sd1)), from_pipe(overflowing(sd1, half=False))
    assert half.autoencoder.vae.dtype == torch.float16
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    half_pipe_vae = half.autoencoder.vae

    decoded = half.autoencoder.decode(latents)

    assert (decoded - whole.autoencoder.decode(latents)).abs().max() < 0.05
    assert decoded.std() > 0.01
    assert "overflowed in float16 at decoding" in half.notes[0]
    half.autoencoder.decode(latents)
    assert len(half.notes) == 1  # it stays in float32
    assert half_pipe_vae.dtype == torch.float16  # the user's own


def test_an_overflowing_encoder_encodes_in_float32_and_draws_the_same_sample(sd1: Path) -> None:
    pipes = [StableDiffusionPipeline.from_pretrained(sd1, safety_checker=None) for _ in range(2)]
    for pipe in pipes:
        pipe.vae.register_to_config(force_upcast=False)
        with torch.no_grad():
            pipe.vae.encoder.conv_norm_out.weight.fill_(4e4)
            pipe.vae.encoder.conv_out.weight.mul_(1e-4)
    half, whole = from_pipe(pipes[0].to(torch.float16)), from_pipe(pipes[1])

    encoded = half.autoencoder.encode(pixels(), torch.Generator().manual_seed(5))

    assert "overflowed in float16 at encoding" in half.notes[0]
    torch.testing.assert_close(
        encoded, whole.autoencoder.encode(pixels(), torch.Generator().manual_seed(5)), atol=0.05, rtol=0.05
    )


def test_numbers_that_no_format_holds_are_reported(sd1: Path) -> None:
    model = from_pipe(overflowing(sd1, half=False, damaged=True))

    with pytest.raises(BackboneError, match=r"autoencoder of .* not finite even in float32") as caught:
        model.autoencoder.decode(torch.zeros(1, 4, 8, 8))
    assert caught.value.code == "numerics"
    with pytest.raises(BackboneError, match=r"latents of .* infinite or NaN"):
        model.autoencoder.decode(torch.full((1, 4, 8, 8), float("nan")))
