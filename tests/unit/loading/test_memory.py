"""Models that fit: sizes from headers, the choice of where weights are kept, and that it changes no picture."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sfumato import Editor
from sfumato.backbones import loading, memory, placing
from sfumato.backbones.memory import Free
from sfumato.backbones.placing import Turns
from sfumato.backbones.sizes import Network, Sizes, read_sizes
from sfumato.cli.main import app
from sfumato.errors import OptionError, ResourceError, Unsupported
from tests import tiny_checkpoints, tiny_flow
from tests.unit.loading.helpers import load

GIB = 2**30
CPU = torch.device("cpu")


def network(role: Any, elements: int, packed: int = 0, largest: int = 0) -> Network:
    names = {"text encoder": "text_encoder", "denoiser": "transformer", "autoencoder": "vae"}
    return Network(name=names[role], role=role, elements=elements, packed=packed, largest=largest)


FLUX = Sizes(  # without activations, whose widths are 0: weights and the reserve alone
    networks=(
        network("text encoder", 5 * GIB, 4 * GIB, GIB // 8),
        network("denoiser", 12 * GIB, 12 * GIB, GIB // 16),
        network("autoencoder", GIB // 8),
    )
)


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_flow.tiny_flux(tmp_path_factory.mktemp("flux"))


def free(device: float, main: float = 64) -> Free:
    return Free(device=int(device * GIB), main=int(main * GIB))


@pytest.mark.parametrize(
    ("device", "quantization", "mode"),
    [
        (35, None, "full"),  # 34.25 of weights, 0.5 in reserve
        (34, None, "offload"),
        (25, None, "offload"),
        (24, None, "sequential"),
        (1.1, None, "sequential"),
        (0.9, None, None),
        (19, "int8", "full"),  # 18.25
        (18, "int8", "offload"),
        (12, "int8", None),  # packed weights are not moved layer by layer
        (12, "nf4", "full"),
        (8, "nf4", "offload"),
    ],
)
def test_the_quickest_way_that_fits_is_chosen(device: float, quantization: str | None, mode: str | None) -> None:
    assert memory.choose(FLUX, free(device), 2, quantization) == mode


def test_main_memory_has_to_hold_what_is_not_on_the_device() -> None:
    assert memory.choose(FLUX, free(25, main=35), 2) == "offload"
    assert memory.choose(FLUX, free(25, main=30), 2) is None
    cpu = Free(device=35 * GIB, main=35 * GIB, is_cpu=True)
    assert memory.choose(FLUX, cpu, 2) == "full"
    assert memory.choose(FLUX, cpu, 4) is None


def test_when_nothing_fits_one_sentence_names_what_would() -> None:
    error = memory.nothing_fits("big", FLUX, free(12, main=20), "bfloat16", None)

    assert error.code == "out-of-memory"
    assert "needs at least 36.8 GB of main memory in bfloat16, and 21.5 GB are free" in error.message
    assert "--quantization int8" not in error.message  # 18 GiB of weights, and 12.5 of the transformer: too much for the device
    assert "--quantization nf4" in error.message


def test_sizes_are_those_of_the_loaded_networks(sd1: Path, flux: Path) -> None:
    for folder in (sd1, flux):
        sizes = read_sizes(folder)
        assert sizes is not None
        model = loading.load(str(folder), device="cpu", dtype="float32")
        denoiser: Any = model.denoiser
        loaded = denoiser.unet if folder == sd1 else denoiser.transformer
        (read,) = (each for each in sizes.networks if each.role == "denoiser")
        assert read.elements == sum(parameter.numel() for parameter in loaded.parameters())
        linear = (module.weight for module in loaded.modules() if isinstance(module, torch.nn.Linear))
        assert read.packed == sum(weight.numel() for weight in linear)
        assert [each.role for each in sizes.networks][-2:] == ["denoiser", "autoencoder"]
    assert sizes is not None
    clip, t5 = (each for each in sizes.networks if each.role == "text encoder")
    assert clip.packed == 0 < t5.packed < t5.elements


def test_a_single_file_has_the_sizes_of_its_folder(sd1: Path, tmp_path: Path) -> None:
    folder, file = read_sizes(sd1), read_sizes(tiny_checkpoints.single_file(sd1, tmp_path / "model.safetensors"))

    assert folder is not None
    assert file is not None
    assert [each.elements for each in file.networks[1:]] == [each.elements for each in folder.networks[1:]]


def edited(pipe: Any) -> np.ndarray:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    editor = Editor.from_pipe(pipe)
    result = editor.edit(image=photo, box=(16, 16, 32, 32), prompt="a ball", steps=3, n=1, rank="none", seed=3)
    return np.asarray(result.images[0])


@pytest.mark.parametrize("model", ["sd1", pytest.param("flux", marks=pytest.mark.slow)])
def test_weights_that_are_moved_make_the_same_pictures(
    model: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    folder = request.getfixturevalue(model)
    kind = {"sd1": diffusers.StableDiffusionPipeline, "flux": diffusers.FluxPipeline}[model]
    pipes = [kind.from_pretrained(folder) for _ in range(3)]
    turns: list[str | None] = []
    give = Turns.give

    def noted(self: Turns, network: torch.nn.Module | None) -> None:
        if network is not self.there:
            turns.append(None if network is None else type(network).__name__)
        give(self, network)

    monkeypatch.setattr(Turns, "give", noted)
    whole, one, layers = (edited(placing.place(pipe, mode, CPU)) for pipe, mode in zip(pipes, memory.MODES, strict=True))

    assert (whole == one).all()
    assert (whole == layers).all()
    denoiser = getattr(pipes[2], "unet", None) or pipes[2].transformer
    assert {parameter.device.type for parameter in denoiser.parameters()} == {"meta"}  # where no layer is at work
    assert turns[-2:] == [type(denoiser).__name__, None]  # the decoder has the device for itself
    assert any("Text" in str(name) for name in turns[:2])


def test_on_a_cpu_the_placement_is_a_note(sd1: Path) -> None:
    assert "changes nothing on a CPU" in load(sd1, memory="offload").notes[0]
    assert load(sd1).notes == []


def test_auto_says_before_loading_that_nothing_fits(sd1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "free_bytes", lambda device: Free(device=2**20, main=2**20, is_cpu=True))
    monkeypatch.setattr(loading, "read_folder", lambda *given: pytest.fail("weights were read"))

    with pytest.raises(ResourceError, match=r"needs at least 0\.5\d GB of main memory in float32, and 0\.00 GB are free"):
        load(sd1)


def test_auto_says_what_it_chose(sd1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = read_sizes(sd1)
    assert sizes is not None
    there = memory.need(sizes, "offload", 4).device
    monkeypatch.setattr(placing, "free_bytes", lambda device: Free(device=there, main=GIB))

    placement = placing.decide("tiny", sd1, "auto", None, torch.device("cuda"), torch.float32)

    assert placement.mode == "offload"
    assert "--memory offload" in placement.notes[0]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"memory": "some"}, "option-memory"),
        ({"quantization": "int3"}, "option-quantization"),
        ({"memory": "sequential", "quantization": "int8"}, "option-contradiction"),
    ],
)
def test_unknown_values_are_refused(options: dict[str, Any], code: str) -> None:
    with pytest.raises(OptionError) as caught:
        Editor(**options)
    assert caught.value.code == code


def test_what_cannot_be_moved_or_packed_is_refused(sd1: Path) -> None:
    with pytest.raises(Unsupported, match=r"--memory offload moves the model alone"):
        load(sd1, memory="offload", branch="anything")
    with pytest.raises(Unsupported, match=r"embedded model takes no weights in other formats"):
        load("embedded", quantization="int8")
    with pytest.raises(Unsupported, match=r"leave one of the two out"):
        load(sd1, quantization="int8", lora=("x.safetensors",))


def test_a_missing_package_is_named(sd1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r'pip install "sfumato\[torchao\]"'):
        load(sd1, quantization="int8")


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_packed_weights_edit(quantization: str, flux: Path) -> None:
    pytest.importorskip("torchao")
    editor = Editor(str(flux), device="cpu", dtype="bfloat16", quantization=quantization)
    photo = Image.new("RGB", (64, 64), "grey")

    result = editor.edit(image=photo, box=(16, 16, 32, 32), prompt="a ball", steps=2, n=1, rank="none")

    denoiser: Any = editor.backbone.denoiser
    kinds = {type(module.weight).__name__ for module in denoiser.transformer.modules() if isinstance(module, torch.nn.Linear)}
    assert any(kind in kinds for kind in ("Int8Tensor", "Float8Tensor"))
    assert result.facts["quantization"] == quantization
    assert any(quantization in note for note in result.notes)


def test_large_windows_are_decoded_in_tiles(sd1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.backbones import autoencoder as module

    autoencoder: Any = load(sd1).autoencoder
    z = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = autoencoder.decode(z)
    autoencoder.vae.tile_latent_min_size, autoencoder.vae.tile_sample_min_size = 16, 16 * autoencoder.factor
    assert (autoencoder.decode(z) == whole).all()  # as there is memory
    assert autoencoder.notes == []

    monkeypatch.setattr(module, "free_memory", lambda device: 1000)
    tiled = autoencoder.decode(z)

    assert not (tiled == whole).all()
    assert tiled.shape == whole.shape
    assert "overlapping tiles" in autoencoder.notes[0]
    assert not autoencoder.vae.use_tiling


def test_doctor_says_what_fits(sd1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.cli.fitting.free_bytes", lambda device: Free(device=GIB, main=GIB, is_cpu=True))
    found = json.loads(CliRunner().invoke(app, ["doctor", "--model", str(sd1), "--device", "cpu", "--json"]).stdout)

    (unet,) = (each for each in found["networks"] if each["role"] == "denoiser")
    assert unet["bytes"]["float32"] == 4 * unet["elements"] == 2 * unet["bytes"]["bfloat16"]
    assert found["side"] == 128
    assert all(row["fits"] and row["memory"] == "full" for row in found["settings"])
    assert found["command"].endswith(f"--model {sd1}")
    assert "estimate" in CliRunner().invoke(app, ["doctor", "--model", str(sd1), "--device", "cpu"]).stdout
