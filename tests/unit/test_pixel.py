"""Pixel models: the published guided-diffusion layout against its network written out, and folders as users have them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from sfumato.backbones import guided_diffusion as layout
from sfumato.backbones.base import Conditions
from sfumato.backbones.guided_diffusion import Architecture, architecture_of, convert, make_unet, to_diffusers
from sfumato.backbones.loading import load
from sfumato.cli.main import app
from sfumato.editing.resolving import resolve
from sfumato.errors import BackboneError, EditError, UnsafeCheckpoint, Unsupported
from sfumato.methods import registry
from sfumato.request import EditRequest
from tests.parity import reference
from tests.parity.guided_diffusion_reference import Published
from tests.tiny_checkpoints import tiny_guided_diffusion

TINY = Architecture(image_size=32, model_channels=64, widths=(32, 64), attention=(False, True), head_channels=16)
FULL = {
    256: Architecture(
        image_size=256,
        model_channels=256,
        widths=(256, 256, 512, 512, 1024, 1024),
        attention=(False, False, False, True, True, True),
    ),
    512: Architecture(
        image_size=512,
        model_channels=256,
        widths=(128, 256, 256, 512, 512, 1024, 1024),
        attention=(False, False, False, False, True, True, True),
        classes=1000,
    ),
}


def test_the_network_is_the_published_one(tmp_path: Path) -> None:
    weights = torch.load(tiny_guided_diffusion(tmp_path / "tiny.pt", TINY), weights_only=True)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    unet = make_unet(TINY).eval()
    unet.load_state_dict(to_diffusers(weights, TINY))
    with torch.no_grad():
        expected = Published(weights, TINY)(x, 313.0)
        result = unet(x, torch.tensor(313.0)).sample
    assert expected.std() > 1e-2
    assert (result - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("size", "parameters"), [(256, 552_814_086), (512, 558_997_638 - 1000 * 1024)])
def test_the_full_networks_have_the_published_size(size: int, parameters: int) -> None:
    """The class embedding of the 512-pixel model plays no part."""
    with torch.device("meta"):
        unet = make_unet(FULL[size])
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters


@pytest.mark.parametrize("size", FULL)
def test_the_published_names_tell_the_architecture(size: int) -> None:
    """Names made by walking the network, from shapes that take no memory."""
    weights = tiny_guided_diffusion(None, FULL[size])
    assert architecture_of(weights) == FULL[size]
    assert len(weights) == {256: 566, 512: 645}[size]
    with torch.device("meta"):
        own = make_unet(FULL[size]).state_dict()
    mapped = to_diffusers(weights, FULL[size])
    assert {name: tensor.shape for name, tensor in mapped.items()} == {name: tensor.shape for name, tensor in own.items()}


def test_converting_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "FIRST_ATTENTION", 16)  # pixels
    architecture = Architecture(image_size=32, model_channels=64, widths=(32, 64), attention=(False, True))
    file = tiny_guided_diffusion(tmp_path / "uncond.pt", architecture)
    out = tmp_path / "converted"
    refused = CliRunner().invoke(app, ["models", "convert-guided-diffusion", str(file), str(out)])
    assert refused.exit_code == 3
    assert "--allow-pickle" in refused.stderr
    assert not out.exists()

    done = CliRunner().invoke(app, ["models", "convert-guided-diffusion", str(file), str(out), "--allow-pickle"])
    assert done.exit_code == 0, done.stderr
    assert json.loads((out / "config.json").read_text())["image_size"] == 32
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]

    backbone = load(str(out), dtype="float32")
    assert (backbone.traits.family, backbone.traits.resolution, backbone.traits.factor) == ("pixel", 32, 1)
    answer = backbone.denoiser(torch.zeros(1, 3, 32, 32), 10.0, Conditions())
    assert answer.prediction.shape == (1, 3, 32, 32)
    assert answer.variance is not None
    assert answer.variance.shape == (1, 3, 32, 32)
    again = CliRunner().invoke(app, ["models", "convert-guided-diffusion", str(file), str(out), "--allow-pickle"])
    assert "there already" in again.stderr


def empty(path: Path) -> None:
    torch.save({}, path)


def other_model(path: Path) -> None:
    torch.save({"conv_in.weight": torch.zeros(1)}, path)


def not_weights(path: Path) -> None:
    torch.save([1, 2], path)


def cut(path: Path) -> None:
    tiny_guided_diffusion(path, TINY)
    path.write_bytes(path.read_bytes()[:2000])


def upsampler(path: Path) -> None:
    weights = torch.load(tiny_guided_diffusion(path, TINY), weights_only=True)
    torch.save(weights | {"input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3)}, path)


def stray_name(path: Path) -> None:
    weights = torch.load(tiny_guided_diffusion(path, TINY), weights_only=True)
    torch.save(weights | {"extra.weight": torch.zeros(1)}, path)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (empty, Unsupported),
        (other_model, Unsupported),
        (not_weights, Unsupported),
        (cut, BackboneError),
        (upsampler, Unsupported),
        (stray_name, BackboneError),
    ],
)
def test_other_files_are_refused(make: Any, kind: type[EditError], tmp_path: Path) -> None:
    make(tmp_path / "file.pt")
    with pytest.raises(kind):
        convert(tmp_path / "file.pt", tmp_path / "out", allow_pickle=True)
    assert not (tmp_path / "out").exists()


def test_a_pickle_that_runs_code_is_not_read_even_if_allowed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"time_embed.0.weight": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(UnsafeCheckpoint):
        convert(tmp_path / "trap.pt", tmp_path / "out")
    with pytest.raises(BackboneError):
        convert(tmp_path / "trap.pt", tmp_path / "out", allow_pickle=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("family", "fields", "views", "outside"),
    [
        ("embedded-pixel", {}, 4, "black"),
        ("embedded-pixel", {"clip_augmentations": 7}, 7, "black"),
        ("embedded-pixel", {"preset": "official"}, 8, "grey"),
        ("pixel", {}, 8, "grey"),
    ],
)
def test_the_embedded_pixel_model_has_its_own_guidance(family: str, fields: dict[str, Any], views: int, outside: str) -> None:
    known = reference.traits(family=family, name=family)
    backbone: Any = SimpleNamespace(traits=known, text_encoder=None)
    request = EditRequest(image="photo.png", prompt="a red ball", method="blended-diffusion", **fields)
    resolved = resolve(request, backbone, registry.get("blended-diffusion"))
    assert resolved.request.options["clip_augmentations"] == resolved.options.clip_augmentations == views
    assert resolved.options.outside == outside


@pytest.mark.parametrize("background", ["paste", "poisson", "none"])
def test_backgrounds_that_need_no_decoder_are_for_pixel_models_too(background: str) -> None:
    known = reference.traits(family="pixel", name="pixel")
    backbone: Any = SimpleNamespace(traits=known, text_encoder=None)
    fields: dict[str, Any] = {"image": "photo.png", "prompt": "a red ball", "method": "blended-diffusion"}
    card = registry.get("blended-diffusion")
    assert resolve(EditRequest(**fields, background=background), backbone, card).request.background == background
    with pytest.raises(Unsupported, match="needs an image decoder"):
        resolve(EditRequest(**fields, background="decoder"), backbone, card)
