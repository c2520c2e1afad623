"""BrushNet as a network beside a UNet: birth, published names, loading, and what is left of it after a call."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.func import functional_call

from sfumato.backbones.base import Conditions, Control, Text
from sfumato.backbones.branches import Residuals, adding, places
from sfumato.backbones.brushnet import WEIGHTS, BrushNet
from sfumato.backbones.brushnet_files import load
from sfumato.embedded import adapter
from sfumato.errors import BackboneError, UnsafeCheckpoint, Unsupported
from tests.tiny_branches import base_unet, brushnet, tiny_brushnet
from tests.tiny_models import TEXT_WIDTH, seeded, tiny_unet

SD1: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
}
SDXL: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


_NO_SIZES: dict[str, Any] = {"addition_embed_type": None, "projection_class_embeddings_input_dim": None}


@pytest.fixture(scope="module")
def base() -> Any:
    return base_unet()


def inputs(branch: BrushNet, scale: float = 1.0, size: int = 16) -> tuple[Tensor, Tensor, Conditions, Control]:
    latents = branch.unet.config.out_channels
    with seeded(1):
        x, image = torch.randn(2, latents, size, size), torch.randn(2, latents + 1, size, size)
        given = Conditions(text=Text(states=torch.randn(2, 7, TEXT_WIDTH)))
    return x, torch.tensor(300.0), given, Control(image=image, scale=torch.full((2,), scale))


@torch.no_grad()
def output(base: Any, branch: BrushNet | None, scale: float = 1.0) -> Tensor:
    x, timestep, given, control = inputs(brushnet(base), scale)
    residuals = [] if branch is None else [branch(x, timestep, given, control)]
    assert given.text is not None
    with adding(base, residuals) as further:
        return base(x, timestep, given.text.states, **further).sample


@pytest.mark.parametrize(
    ("config", "attention", "tensors", "numbers", "convolutions"),
    [
        (SD1, False, 322, 618_830_080, 28),
        (SDXL, False, 252, 373_332_480, 21),
        (SD1, True, 738, 886_069_440, 28),
    ],
    ids=["sd1", "sdxl", "attention"],
)
def test_published_sizes(config: dict[str, Any], attention: bool, tensors: int, numbers: int, convolutions: int) -> None:
    branch = BrushNet(config, attention=attention)
    assert len(branch.state_dict()) == tensors
    assert sum(parameter.numel() for parameter in branch.parameters()) == numbers
    assert len(branch.convolutions) == convolutions


def test_published_names() -> None:
    branch = BrushNet(SD1)
    names = list(branch.published_names().values())
    prefixes = ("conv_in_condition.", "time_embedding.", "down_blocks.", "mid_block.", "up_blocks.")
    counts = {prefix: sum(name.startswith(prefix) for name in names) for prefix in prefixes}
    assert counts == dict(zip(prefixes, (2, 4, 90, 20, 150), strict=True))
    parts = ("brushnet_down_blocks.", "brushnet_mid_block.", "brushnet_up_blocks.")
    assert [sum(name.startswith(part) for name in names) for part in parts] == [24, 2, 30]
    shapes = {branch.published_names()[name]: tuple(tensor.shape) for name, tensor in branch.state_dict().items()}
    assert shapes["conv_in_condition.weight"] == (320, 9, 3, 3)
    assert shapes["brushnet_down_blocks.11.weight"] == shapes["brushnet_mid_block.weight"] == (1280, 1280, 1, 1)
    assert shapes["brushnet_up_blocks.14.weight"] == (320, 320, 1, 1)


def test_born_as_a_copy(base: Any) -> None:
    """The first convolution reads latents as the base does, twice, and no mask; nothing is shared with the base."""
    branch = BrushNet.born(base)
    first = branch.unet.conv_in.weight
    assert torch.equal(first[:, :4], base.conv_in.weight)
    assert torch.equal(first[:, 4:8], base.conv_in.weight)
    assert not first[:, 8].any()
    assert torch.equal(branch.unet.conv_in.bias, base.conv_in.bias)
    own = {parameter.data_ptr() for parameter in branch.parameters()}
    assert not own & {parameter.data_ptr() for parameter in base.parameters()}
    assert torch.equal(branch.unet.mid_block.resnets[1].conv2.weight, base.mid_block.resnets[1].conv2.weight)
    assert torch.equal(branch.unet.up_blocks[3].resnets[2].conv1.weight, base.up_blocks[3].resnets[2].conv1.weight)
    assert not any(parameter.any() for parameter in branch.convolutions.parameters())
    assert not any("attentions" in name for name in branch.state_dict())


def test_birth_draws_nothing(base: Any) -> None:
    state = torch.get_rng_state()
    BrushNet.born(base)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("injection", ["all", "encoder", "skips"])
def test_adds_nothing_at_birth(base: Any, injection: str, attention: bool) -> None:
    branch = BrushNet.born(base, injection=injection, attention=attention)
    assert torch.equal(output(base, branch), output(base, None))
    assert not torch.equal(output(base, brushnet(base, injection=injection, attention=attention)), output(base, None))


def test_scale_0_adds_nothing(base: Any) -> None:
    assert torch.equal(output(base, brushnet(base), scale=0.0), output(base, None))


def test_each_row_has_its_scale(base: Any) -> None:
    branch = brushnet(base)
    x, timestep, given, control = inputs(branch)
    with torch.no_grad():
        rows = branch(x, timestep, given, Control(image=control.image, scale=torch.tensor([0.0, 0.5]))).stream
        half = branch(x, timestep, given, Control(image=control.image, scale=torch.full((2,), 0.5))).stream
    assert len(rows) == 28
    for row, other in zip(rows, half, strict=True):
        assert not row[0].any()
        assert torch.equal(row[1], other[1])


def test_variants(base: Any) -> None:
    """The ablations: half of the places, skip connections alone, no mask."""
    encoder, skips = brushnet(base, injection="encoder"), brushnet(base, injection="skips")
    with torch.no_grad():
        assert [len(encoder(*inputs(encoder)).stream), len(encoder.unet.up_blocks)] == [13, 0]
        residuals = skips(*inputs(skips))
        assert (len(residuals.skips), len(residuals.stream)) == (12, 0)
        assert residuals.mid is not None
        blind = brushnet(base, mask_channel=False)
        x, timestep, given, control = inputs(blind)
        other = control.image.clone()
        other[:, -1] = 0
        given_mask, given_none = (
            blind(x, timestep, given, Control(image=i, scale=control.scale)) for i in (control.image, other)
        )
    assert all(map(torch.equal, given_mask.stream, given_none.stream))
    assert blind.unet.config.in_channels == 8


def test_a_text_in_the_time_embedding_is_read() -> None:
    """The embedded UNet joins its caption to the time embedding, in the copy too."""
    base = tiny_unet(addition_embed_type="text", addition_embed_type_num_heads=4)
    branch = brushnet(base)
    x, timestep, given, control = inputs(branch)
    other = Conditions(text=Text(states=torch.zeros(2, 7, TEXT_WIDTH)))
    with torch.no_grad():
        one, two = branch(x, timestep, given, control).stream, branch(x, timestep, other, control).stream
    assert not torch.equal(one[-1], two[-1])


def test_gradients_reach_the_branch_alone(base: Any) -> None:
    branch = brushnet(base)
    x, timestep, given, control = inputs(branch)
    base.requires_grad_(False)
    weights = {name: tensor.detach().clone().requires_grad_() for name, tensor in branch.named_parameters()}
    residuals: Any = functional_call(branch, weights, (x, timestep, given, control))
    assert given.text is not None
    with adding(base, [residuals]) as further:
        base(x, timestep, given.text.states, **further).sample.square().mean().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in weights.values())
    assert all(parameter.grad is None for parameter in base.parameters())


def test_nothing_is_left_after_a_call(base: Any) -> None:
    before = output(base, None)
    output(base, brushnet(base))
    assert torch.equal(output(base, None), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.modules())


def test_nothing_is_left_after_a_failure(base: Any) -> None:
    def fail() -> None:
        x, timestep, given, control = inputs(brushnet(base))
        with torch.no_grad(), adding(base, [brushnet(base)(x, timestep, given, control)]):
            base(x[:, :1], timestep, None)  # too few channels

    with pytest.raises(RuntimeError):
        fail()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.modules())


def test_threads_do_not_meet(base: Any) -> None:
    """While one thread adds residuals, another's call of the same UNet is as ever."""
    branch, found = brushnet(base), []
    before = output(base, None)
    x, timestep, given, control = inputs(branch)
    with torch.no_grad(), adding(base, [branch(x, timestep, given, control)]):
        other = threading.Thread(target=lambda: found.append(output(base, None)))
        other.start()
        other.join()
    assert torch.equal(found[0], before)


def loaded(source: Path, base: Any, **how: Any) -> BrushNet:
    return load(source, base, name=source.name, **how)


def test_published_folder_and_file(base: Any, tmp_path: Path) -> None:
    folder = tiny_brushnet(tmp_path / "brush", base)
    config = json.loads((folder / "config.json").read_text())
    assert config["_class_name"] == "BrushNetModel"
    assert config["conditioning_channels"] == 5
    assert "conv_in_condition.weight" in load_file(folder / WEIGHTS)
    expected = output(base, brushnet(base))
    assert torch.equal(output(base, loaded(folder, base)), expected)
    (folder / WEIGHTS).rename(tmp_path / "brush.safetensors")
    branch = loaded(tmp_path / "brush.safetensors", base)
    assert torch.equal(output(base, branch), expected)
    assert not any(parameter.requires_grad for parameter in branch.parameters())


def test_in_the_format_of_the_base(base: Any, tmp_path: Path) -> None:
    half = base_unet().to(torch.bfloat16)
    branch = loaded(tiny_brushnet(tmp_path, base), half)
    assert {parameter.dtype for parameter in branch.parameters()} == {torch.bfloat16}


def test_variant_is_written_and_read(base: Any, tmp_path: Path) -> None:
    brushnet(base, injection="skips", mask_channel=False).save(tmp_path)
    branch = loaded(tmp_path, base)
    assert (branch.injection, branch.mask_channel, branch.attention) == ("skips", False, False)


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        ({}, {"xl": True}, "shape"),
        ({"xl": True}, {}, "shape"),
        ({"xl": True}, {"xl": True, **_NO_SIZES}, "add_embedding"),
        ({}, {"block_out_channels": (8, 16, 32, 64)}, "shape"),
        ({}, {"in_channels": 8, "out_channels": 8}, r"\(8, 17, 3, 3\), and .* must have \(8, 9, 3, 3\)"),
    ],
    ids=["xl", "not xl", "no sizes", "widths", "channels"],
)
def test_branch_of_another_base(
    ours: dict[str, Any], theirs: dict[str, Any], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_brushnet(tmp_path, base_unet(**theirs))
    monkeypatch.delattr("sfumato.backbones.brushnet_files.load_file")  # told by the header alone
    with pytest.raises(Unsupported, match=f"another base.*{found}"):
        loaded(tmp_path, base_unet(**ours))


def test_missing_and_unexpected_tensors(base: Any, tmp_path: Path) -> None:
    weights = load_file(tiny_brushnet(tmp_path, base) / WEIGHTS)
    weights["left_over.weight"] = weights.pop("mid_block.resnets.0.conv1.weight")
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(BackboneError, match=r"1 tensors are missing \(.*mid_block.resnets.0.conv1.*unexpected \(left_over"):
        loaded(tmp_path, base)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(BackboneError, match="holds no weights"):
        loaded(tmp_path, base)


def test_other_kinds_of_files(base: Any, tmp_path: Path) -> None:
    brushnet(base, attention=True).save(tmp_path / "powerpaint")
    (tmp_path / "powerpaint/config.json").unlink()
    with pytest.raises(Unsupported, match="attends to a text of its own"):
        loaded(tmp_path / "powerpaint", base)
    save_file({"controlnet_mid_block.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(Unsupported, match="no BrushNet"):
        loaded(tmp_path / "other.safetensors", base)


def test_pickles_only_when_allowed(base: Any, tmp_path: Path) -> None:
    weights = load_file(tiny_brushnet(tmp_path, base) / WEIGHTS)
    (tmp_path / WEIGHTS).unlink()
    torch.save(weights, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(UnsafeCheckpoint):
        loaded(tmp_path, base)
    assert torch.equal(output(base, loaded(tmp_path, base, allow_pickle=True)), output(base, brushnet(base)))


def test_notes_on_use(base: Any, tmp_path: Path) -> None:
    for name in ("random_mask_brushnet_ckpt", "segmentation_mask_brushnet_ckpt"):
        (note,) = loaded(tiny_brushnet(tmp_path / name, base), base).notes
        assert name in note
    wider = base_unet(cross_attention_dim=TEXT_WIDTH + 8)  # as Stable Diffusion 2 is to 1.x
    notes = loaded(tiny_brushnet(tmp_path / "brush", base), wider).notes
    assert "may not fit" in notes[0]


def test_embedded_form(base: Any, tmp_path: Path) -> None:
    """An adapter of the branch at birth; the branch is that of the UNet beside it, whatever model it is loaded for."""
    base.save_pretrained(tmp_path / "unet")
    digest = adapter.base_digest(tmp_path)
    born = BrushNet.born(base)
    change = adapter.Adapter(born, digest, 4)
    with seeded(5), torch.no_grad():
        for weight in change.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    change.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(born.configuration()))
    with torch.no_grad():
        born.load_state_dict(change.weights(born))
    other = base_unet()
    other.conv_out.weight.data.mul_(2)
    found = loaded(tmp_path, other).state_dict()
    for name, tensor in born.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=2e-3, atol=2e-3)  # written as float16
    with pytest.raises(Unsupported, match="another base"):
        loaded(tmp_path, base_unet(xl=True))


def test_places(base: Any) -> None:
    assert [len(places(unet)) for unet in (base, base_unet(xl=True), UNet2DConditionModel(**_EMBEDDED))] == [28, 21, 15]


_EMBEDDED: dict[str, Any] = {
    "block_out_channels": (8, 16, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}


def test_residuals_add_up(base: Any) -> None:
    """Of two branches, the sum."""
    branch = brushnet(base)
    x, timestep, given, control = inputs(branch)
    with torch.no_grad():
        one = branch(x, timestep, given, control)
        assert given.text is not None
        doubled = Residuals(stream=tuple(2 * residual for residual in one.stream))
        with adding(base, [one, one]) as further:
            twice = base(x, timestep, given.text.states, **further).sample
        with adding(base, [doubled]) as further:
            assert torch.equal(base(x, timestep, given.text.states, **further).sample, twice)
