"""ControlNets: published layouts are read, what they add is diffusers' own, what does not belong is refused by its header."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfumato.backbones.attaching import attach, kind_of
from sfumato.backbones.base import Conditions, Control, Text, Traits
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.controlnet import ControlNet, born, configuration, load
from sfumato.backbones.loading import load as load_model
from sfumato.backbones.unet import UNet
from sfumato.embedded import adapter
from sfumato.errors import BackboneError, UnsafeCheckpoint, Unsupported
from tests import tiny_models
from tests.parity.reference import traits
from tests.tiny_models import SIDE, TEXT_WIDTH, seeded, tiny_controlnet, tiny_unet

WEIGHTS = "diffusion_pytorch_model.safetensors"
PUBLISHED = (16, 16, 24, 32)  # four widths, as the published names have them


@pytest.fixture(scope="module")
def unet() -> Any:
    with seeded(1):
        return tiny_unet().eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_controlnet(tmp_path_factory.mktemp("controlnet"), widths=PUBLISHED)


def original(folder: Path, file: Path, prefix: str = "control_model.") -> Path:
    """The weights under the names that the authors published, in one file."""
    pairs = (
        (r"^time_embedding\.linear_(\d)", lambda found: f"time_embed.{2 * int(found[1]) - 2}"),
        (r"^controlnet_cond_embedding\.conv_in", lambda found: "input_hint_block.0"),
        (r"^controlnet_cond_embedding\.blocks\.(\d)", lambda found: f"input_hint_block.{2 * int(found[1]) + 2}"),
        (r"^controlnet_cond_embedding\.conv_out", lambda found: "input_hint_block.14"),
        (r"^controlnet_down_blocks\.(\d)", lambda found: f"zero_convs.{found[1]}.0"),
        (r"^controlnet_mid_block", lambda found: "middle_block_out.0"),
        (r"^conv_in", lambda found: "input_blocks.0.0"),
        (r"^mid_block\.resnets\.(\d)", lambda found: f"middle_block.{2 * int(found[1])}"),
        (r"^mid_block\.attentions\.0", lambda found: "middle_block.1"),
        (r"^down_blocks\.0\.downsamplers\.0\.conv", lambda found: "input_blocks.2.0.op"),
        (r"^down_blocks\.(\d)\.resnets\.0", lambda found: f"input_blocks.{1 + 2 * int(found[1])}.0"),
        (r"^down_blocks\.(\d)\.attentions\.0", lambda found: f"input_blocks.{1 + 2 * int(found[1])}.1"),
    )
    layers = (
        ("norm1", "in_layers.0"),
        ("conv1", "in_layers.2"),
        ("norm2", "out_layers.0"),
        ("conv2", "out_layers.3"),
        ("time_emb_proj", "emb_layers.1"),
        ("conv_shortcut", "skip_connection"),
    )

    def renamed(name: str) -> str:
        for pattern, rename in pairs:
            name = re.sub(pattern, rename, name)
        for old, new in layers if "transformer_blocks" not in name else ():
            name = name.replace(f".{old}.", f".{new}.")
        return prefix + name

    save_file({renamed(name): tensor for name, tensor in load_file(folder / WEIGHTS).items()}, file)
    return file


def single(folder: Path, file: Path) -> Path:
    """The same file outside its folder."""
    file.write_bytes((folder / WEIGHTS).read_bytes())
    return file


def inputs(rows: int = 2) -> tuple[Tensor, Tensor, Conditions, Control]:
    """Latents, timestep and conditions of a call; each row has a scale of its own."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((rows, 4, SIDE, SIDE), generator=generator)
    text = Text(states=torch.randn((rows, 7, TEXT_WIDTH), generator=generator))
    image = torch.rand((rows, 3, 8 * SIDE, 8 * SIDE), generator=generator)
    control = Control(image=image, scale=torch.linspace(0.3, 1.2, rows))
    return x, torch.tensor(500.0), Conditions(text=text), control


@pytest.mark.parametrize("layout", [lambda folder, file: folder, single, original], ids=["folder", "single file", "original"])
def test_published_layouts_add_what_diffusers_adds(
    layout: Callable[[Path, Path], Path], folder: Path, unet: Any, tmp_path: Path
) -> None:
    source = layout(folder, tmp_path / "control.safetensors")
    assert kind_of(source) is Capability.CONTROLNET
    branch = load(source, unet, name="control", allow_pickle=False)
    x, timestep, given, control = inputs()
    made = branch(x, timestep, given, control)
    network = ControlNetModel.from_pretrained(folder).eval()
    for row, scale in enumerate(control.scale):
        one = slice(row, row + 1)
        skips, mid = network(
            x[one],
            timestep,
            encoder_hidden_states=given.text.states[one],  # type: ignore[union-attr]
            controlnet_cond=control.image[one],
            conditioning_scale=float(scale),
            return_dict=False,
        )
        for ours, theirs in zip([*made.skips, made.mid], [*skips, mid], strict=True):
            assert ours is not None
            assert torch.allclose(ours[one], theirs, atol=1e-5)
            assert theirs.abs().max() > 1e-3


def test_guess_mode_weakens_the_first_layers(folder: Path, unet: Any) -> None:
    branch = load(folder, unet, name="control", allow_pickle=False)
    x, timestep, given, control = inputs()
    plain = branch(x, timestep, given, control)
    guessed = branch(x, timestep, given, Control(image=control.image, scale=control.scale, guess=True))
    factors = 10 ** (-1 + torch.arange(5) / 4)  # four skips and the middle
    for before, after, factor in zip([*plain.skips, plain.mid], [*guessed.skips, guessed.mid], factors, strict=True):
        assert before is not None
        assert torch.allclose(after, before * factor, rtol=1e-5)  # type: ignore[arg-type]


def test_what_is_added_is_linear_in_the_scale(folder: Path, unet: Any) -> None:
    branch = load(folder, unet, name="control", allow_pickle=False)
    x, timestep, given, control = inputs()
    once, half = (
        branch(x, timestep, given, Control(image=control.image, scale=torch.full((2,), scale))).skips for scale in (1.0, 0.5)
    )
    for whole, part in zip(once, half, strict=True):
        assert torch.equal(part, whole * 0.5)


def denoiser(unet: Any, *branches: ControlNet) -> UNet:
    known: Traits = traits(resolution=8 * SIDE)
    return UNet(unet, known, branches)


def with_controls(given: Conditions, *controls: Control | None) -> Conditions:
    return Conditions(text=given.text, controls=controls)


def test_scale_zero_and_a_new_controlnet_leave_the_base_as_it_is(folder: Path, unet: Any) -> None:
    x, _, given, control = inputs()
    base = denoiser(unet)(x, 500, given).prediction
    trained = load(folder, unet, name="control", allow_pickle=False)
    new = ControlNet(born(unet, PUBLISHED))
    silent = Control(image=control.image, scale=torch.zeros(2))
    assert torch.equal(denoiser(unet, trained)(x, 500, with_controls(given, silent)).prediction, base)
    assert torch.equal(denoiser(unet, new)(x, 500, with_controls(given, control)).prediction, base)
    assert not torch.equal(denoiser(unet, trained)(x, 500, with_controls(given, control)).prediction, base)


def test_several_add_up_and_one_may_be_left_out(folder: Path, unet: Any, tmp_path: Path) -> None:
    other = load(tiny_controlnet(tmp_path, seed=10, widths=PUBLISHED), unet, name="other", allow_pickle=False)
    one = load(folder, unet, name="control", allow_pickle=False)
    x, timestep, given, control = inputs()
    both = denoiser(unet, one, other)
    alone = denoiser(unet, other)(x, 500, with_controls(given, control)).prediction
    assert torch.equal(both(x, 500, with_controls(given, None, control)).prediction, alone)
    skips = [branch(x, timestep, given, control).skips[0] for branch in (one, other)]
    seen: list[Tensor] = []
    hook = unet.register_forward_pre_hook(
        lambda _, args, named: seen.append(named["down_block_additional_residuals"][0]), with_kwargs=True
    )
    both(x, 500, with_controls(given, control, control))
    hook.remove()
    assert torch.allclose(seen[0], skips[0] + skips[1])


def test_beside_nine_channels_it_reads_the_latents_alone(folder: Path) -> None:
    with seeded(2):
        inpainting = tiny_unet(in_channels=9)
    branch = load(folder, inpainting, name="control", allow_pickle=False)
    assert branch.network.config.in_channels == 4


def test_half_precision_follows_the_base(folder: Path) -> None:
    with seeded(1):
        half = tiny_unet().to(torch.bfloat16)
    assert load(folder, half, name="control", allow_pickle=False).network.dtype == torch.bfloat16


def test_weights_in_the_variant_fp16_alone_are_found(folder: Path, unet: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = {name: tensor.half() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(weights, tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    assert load(tmp_path, unet, name="control", allow_pickle=False).network.dtype == torch.float32


@torch.no_grad()
def test_an_adapter_changes_the_copy_that_it_was_trained_on(tmp_path: Path) -> None:
    model = tiny_models.tiny_embedded(tmp_path / "base")
    backbone = load_model(str(model), dtype="float32")
    denoiser: Any = backbone.denoiser
    folder = tmp_path / "controlnet"
    with seeded(5):
        trained = born(denoiser.unet)
        for parameter in trained.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        trained.half().float().save_config(folder)
    update = adapter.Adapter(trained, adapter.base_digest(model), rank=10**6)  # of so high a rank that all is replaced
    update.save(folder)
    (folder / "unet").symlink_to(model / "unet")
    state = torch.random.get_rng_state()
    loaded: Any = attach(backbone, str(folder), (), allow_pickle=False).denoiser
    assert torch.equal(torch.random.get_rng_state(), state)
    assert backbone.traits.can(Capability.CONTROLNET) is False
    for (name, expected), (_, found) in zip(
        trained.named_parameters(), loaded.branches[0].network.named_parameters(), strict=True
    ):
        assert torch.equal(found, expected), name
    (folder / "unet").unlink()  # then its base is the model that ships
    with pytest.raises(Unsupported, match="another base"):
        attach(backbone, str(folder), (), allow_pickle=False)


def test_the_published_size() -> None:
    """340 tensors beside Stable Diffusion 1.5, and the heads of the text that the embedded UNet joins to its time embedding."""
    with torch.device("meta"):
        published = born(UNet2DConditionModel(sample_size=64, cross_attention_dim=768))
    assert len(published.state_dict()) == 340
    assert sum(parameter.numel() for parameter in published.parameters()) == 361_279_120
    joined = tiny_unet(addition_embed_type="text", addition_embed_type_num_heads=4)
    assert configuration(joined, PUBLISHED)["addition_embed_type_num_heads"] == 4


def without(folder: Path, file: Path, name: str) -> Path:
    save_file({key: tensor for key, tensor in load_file(folder / WEIGHTS).items() if key != name}, file)
    return file


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: tiny_controlnet(path, cross_attention_dim=48), "text of width 48.*must read 32.*another base"),
        (lambda path: tiny_controlnet(path, in_channels=8), "latents of 8 channels.*must read 4"),
        (lambda path: tiny_controlnet(path, block_out_channels=(32, 32)), "layers of other sizes.*another base"),
        (lambda path: tiny_controlnet(path, layers_per_block=2), "layers of other sizes.*another base"),
        (lambda path: tiny_models.tiny_sd1(path) / "unet", "holds UNet2DConditionModel.*BrushNet or a ControlNet"),
    ],
    ids=["text", "latents", "widths", "layers", "no branch"],
)
def test_another_base_is_refused_by_the_header(
    make: Callable[[Path], Path], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(tiny_models.tiny_sd1(tmp_path / "base")), dtype="float32")
    source = make(tmp_path / "made")

    def read(*_: object, **__: object) -> None:
        raise AssertionError("its weights were read")

    monkeypatch.setattr("sfumato.backbones.controlnet.load_single_file_checkpoint", read)
    with pytest.raises(Unsupported, match=message):
        attach(model, None, [str(source)], allow_pickle=False)


def test_missing_and_foreign_weights_are_named(folder: Path, unet: Any, tmp_path: Path) -> None:
    lacking = without(folder, tmp_path / "lacking.safetensors", "mid_block.resnets.0.norm1.weight")
    with pytest.raises(BackboneError, match=r"lacks mid_block\.resnets\.0\.norm1\.weight"):
        load(lacking, unet, name="control", allow_pickle=False)
    foreign = tmp_path / "foreign.safetensors"
    save_file({**load_file(folder / WEIGHTS), "task_embedding": torch.ones(3)}, foreign)
    with pytest.raises(BackboneError, match="has task_embedding, which"):
        load(foreign, unet, name="control", allow_pickle=False)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(BackboneError, match="has no weights"):
        load(tmp_path, unet, name="control", allow_pickle=False)


def test_pickles_are_read_only_if_they_are_allowed(folder: Path, unet: Any, tmp_path: Path) -> None:
    pickled = tmp_path / "control.pth"
    torch.save(load_file(folder / WEIGHTS), pickled)
    with pytest.raises(UnsafeCheckpoint, match="pickle"):
        load(pickled, unet, name="control", allow_pickle=False)
    branch = load(pickled, unet, name="control", allow_pickle=True)
    x, timestep, given, control = inputs()
    safe = load(folder, unet, name="control", allow_pickle=False)(x, timestep, given, control)
    assert torch.equal(branch(x, timestep, given, control).skips[1], safe.skips[1])


@pytest.mark.parametrize("name", ["down_blocks.0.attentions.0.lora_A.weight", "brushnet_down_blocks.0.weight"])
def test_other_branches_and_adapters_are_no_control_model(name: str, tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({name: torch.ones(4, 4)}, file)
    if "brushnet" in name:
        assert kind_of(file) is Capability.BRUSHNET
    else:
        with pytest.raises(Unsupported, match="holds other weights"):
            kind_of(file)
