"""Branches beside a UNet: where they are read and added, what a file is taken for, and which ships for a method."""

import importlib.util
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfumato.backbones import loading
from sfumato.backbones.attaching import attach, kind_of
from sfumato.backbones.base import Conditions, Control, Text, expand
from sfumato.backbones.branches import Residuals, adding, places, reading
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.loading import load
from sfumato.backbones.unet import UNet
from sfumato.denoising.base import Model, Pair, join
from sfumato.editing.choice import Choice
from sfumato.errors import BackboneError, ModelNotFound, Unsupported
from tests import tiny_models
from tests.tiny_branches import tiny_brushnet

SD1 = {
    "block_out_channels": (8, 8, 8, 8),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "cross_attention_dim": 8,
}
SDXL = {
    **SD1,
    "block_out_channels": (8, 8, 8),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}


@pytest.fixture
def unet() -> Any:
    with tiny_models.seeded(0):
        return tiny_models.tiny_unet().eval().requires_grad_(False)


def run(unet: Any, residuals: tuple[Residuals, ...] = ()) -> Tensor:
    x, states = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in ((2, 4, 8, 8), (2, 5, 32)))
    with adding(unet, residuals) as further:
        output: Tensor = unet(x, torch.tensor(300.0), encoder_hidden_states=states, **further).sample
    return output


def like(tensors: list[Tensor], change: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    return tuple(change(tensor) for tensor in tensors)


@pytest.mark.parametrize(("config", "count"), [(SD1, 28), (SDXL, 21)])
def test_places_are_those_of_the_published_brushnets(config: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        assert len(places(UNet2DConditionModel(**config))) == count


def test_residuals_of_zero_change_no_bit_and_hooks_are_gone_afterwards(unet: Any) -> None:
    plain = run(unet)
    with reading(unet) as outputs:
        run(unet)
    assert len(outputs) == len(places(unet))
    zero = Residuals(stream=like(outputs, torch.zeros_like))
    loud = Residuals(stream=like(outputs, torch.ones_like))
    assert torch.equal(run(unet, (zero,)), plain)
    assert not torch.allclose(run(unet, (loud,)), plain)
    assert torch.equal(run(unet, (zero, loud)), run(unet, (loud,)))
    assert torch.equal(run(unet), plain)
    with pytest.raises(RuntimeError):
        run(unet, (Residuals(stream=tuple(torch.ones(1, 999, 1, 1) for _ in outputs)),))
    assert torch.equal(run(unet), plain)


def test_the_first_residual_stays_out_of_the_skip_connection(unet: Any) -> None:
    """Behind conv_in the stream alone gets it: the last block of the decoder still reads conv_in's own output."""
    with reading(unet) as outputs:
        run(unet)
    silent = like(outputs[1:], torch.zeros_like)
    stored: list[Tensor] = []
    hook = unet.up_blocks[-1].register_forward_pre_hook(
        lambda _m, _a, given: stored.append(given["res_hidden_states_tuple"][0]), with_kwargs=True
    )
    run(unet, (Residuals(stream=(100 * torch.ones_like(outputs[0]), *silent)),))
    hook.remove()
    assert torch.equal(stored[0], outputs[0])


def test_another_thread_does_not_meet_the_residuals(unet: Any) -> None:
    plain, seen = run(unet), []
    with reading(unet) as outputs:
        run(unet)
    count = len(outputs)
    with adding(unet, [Residuals(stream=like(outputs, torch.ones_like))]):
        thread = threading.Thread(target=lambda: seen.append(run(unet)))
        thread.start()
        thread.join()
    assert torch.equal(seen[0], plain)
    assert len(outputs) == count


def test_in_guess_mode_a_branch_is_not_run_for_rows_of_no_scale(unet: Any) -> None:
    """With the same answer as if its residuals were multiplied by 0, row by row."""
    calls: list[list[float]] = []
    with reading(unet) as outputs:
        run(unet)
    widths = [tuple(output.shape[1:]) for output in outputs]

    def loud(x: Tensor, timestep: Tensor, given: Conditions, control: Control) -> Residuals:
        calls.append(control.scale.tolist())
        assert given.text is not None
        added = control.scale + control.image.mean((1, 2, 3)) + x.mean((1, 2, 3)) + given.text.states.mean((1, 2))
        added = (added * control.scale)[:, None, None, None]
        return Residuals(stream=tuple(added.expand(-1, *shape) for shape in widths))

    traits: Any = SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32, latent_channels=4)
    denoiser, x = UNet(unet, traits, [loud]), torch.randn(4, 4, 8, 8)  # type: ignore[list-item]
    given = Conditions(text=Text(states=torch.randn(4, 5, 32)))

    def answer(scale: list[float], guess: bool) -> Tensor:
        own = Control(image=torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2), scale=torch.tensor(scale), guess=guess)
        calls.clear()
        return denoiser(x, 300.0, replace(given, controls=(own,))).prediction

    for scale, rows in (([0.0, 1.0, 0.0, 0.5], [[1.0, 0.5]]), ([1.0] * 4, [[1.0] * 4]), ([0.0] * 4, [])):
        plain = answer(scale, guess=False)
        assert calls == [scale]
        torch.testing.assert_close(answer(scale, guess=True), plain)
        assert calls == rows
    torch.testing.assert_close(answer([0.0] * 4, guess=True), denoiser(x, 300.0, given).prediction)


def control(rows: int, value: float) -> Control:
    return Control(image=torch.full((rows, 3, 4, 4), value), scale=torch.full((rows,), value))


def test_controls_are_expanded_joined_and_left_out_with_the_rest() -> None:
    given = Conditions(text=Text(states=torch.zeros(1, 2, 3)), controls=(control(1, 0.5), control(1, 2.0)))
    both = join([expand(given, 2), expand(given, 1)])
    assert [tuple(each.image.shape) for each in both.controls if each] == [(3, 3, 4, 4)] * 2
    assert [each.scale.tolist() for each in both.controls if each] == [[0.5] * 3, [2.0] * 3]
    nothing: Any = None
    model = Model(denoiser=nothing, pair=Pair(unconditional=given, conditional=given), guidance=nothing)
    assert model.without_branch().pair.conditional.controls == (None, given.controls[1])
    silent = replace(given, controls=(None, given.controls[1]))
    assert join([silent, silent]).controls[0] is None
    assert model.pair.conditional.controls == given.controls


def test_a_file_is_told_by_its_keys_and_a_folder_by_its_class(tmp_path: Path) -> None:
    names = {"brushnet_down_blocks.0.weight": Capability.BRUSHNET, "controlnet_down_blocks.0.weight": Capability.CONTROLNET}
    names["control_model.zero_convs.0.0.weight"] = Capability.CONTROLNET
    for i, (name, kind) in enumerate(names.items()):
        save_file({name: torch.zeros(1)}, tmp_path / f"{i}.safetensors")
        assert kind_of(tmp_path / f"{i}.safetensors") is kind
    save_file({"lora_unet_down.lora_up.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(Unsupported, match=r"--branch and --control-model take a BrushNet or a ControlNet"):
        kind_of(tmp_path / "lora.safetensors")
    (tmp_path / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    assert kind_of(tmp_path) is Capability.CONTROLNET
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    with pytest.raises(Unsupported, match="holds UNet2DConditionModel"):
        kind_of(tmp_path)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(BackboneError, match="damaged or not a checkpoint"):
        kind_of(tmp_path / "broken.safetensors")


def fused(pipe: Any, files: Sequence[str]) -> list[str]:
    """A LoRA added to the weights by hand: what peft does where it is installed."""
    for tensors in map(load_file, files):
        for name in (name for name in tensors if ".lora_A." in name):
            layer = pipe.unet.get_submodule(name.removeprefix("unet.").removesuffix(".lora_A.weight"))
            layer.weight.data += tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
    return []


@pytest.mark.parametrize("kind", ["brushnet", "controlnet"])
def test_a_branch_acts_beside_a_base_with_a_lora(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As beside a base whose weights were changed so."""
    if importlib.util.find_spec("peft") is None:
        monkeypatch.setattr(loading, "apply_lora", fused)
    folder = tiny_models.tiny_sd1(tmp_path / "sd1")
    base = UNet2DConditionModel.from_pretrained(folder / "unet")
    if kind == "brushnet":
        branch, image = tiny_brushnet(tmp_path / "branch", base), torch.randn(2, 5, 16, 16)
    else:
        branch, image = tiny_models.tiny_controlnet(tmp_path / "branch"), torch.rand(2, 3, 32, 32)
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    shape = base.get_submodule(layer).weight.shape
    down, up, file = torch.randn(2, shape[1]), torch.randn(shape[0], 2), tmp_path / "lora.safetensors"
    save_file({f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up}, file)
    given = Conditions(text=Text(states=torch.randn(2, 5, 32)), controls=(Control(image=image, scale=torch.ones(2)),))
    x, denoisers = torch.randn(2, 4, 16, 16), {}
    for name, lora in (("plain", ()), ("lora", (str(file),))):
        denoisers[name] = load(str(folder), device="cpu", dtype="float32", branch=str(branch), lora=lora).denoiser
    with_lora, plain = (denoisers[name](x, 300.0, given).prediction for name in ("lora", "plain"))
    alone = denoisers["lora"](x, 300.0, replace(given, controls=())).prediction
    assert not torch.allclose(with_lora, plain, atol=1e-3)
    assert not torch.allclose(with_lora, alone, atol=1e-3)
    changed: Any = denoisers["plain"]
    changed.unet.get_submodule(layer).weight.data += up @ down
    torch.testing.assert_close(with_lora, changed(x, 300.0, given).prediction, rtol=1e-4, atol=1e-5)


def test_what_takes_no_branch_and_what_is_not_there_say_so(tmp_path: Path) -> None:
    model = load(str(tiny_models.tiny_sd1(tmp_path / "sd1")), device="cpu", dtype="float32")
    assert attach(model, None, (), allow_pickle=False) is model
    with pytest.raises(ModelNotFound, match=r"no branch 'nothing\.safetensors'"):
        attach(model, "nothing.safetensors", (), allow_pickle=False)
    with pytest.raises(ModelNotFound, match="not on this machine"):
        attach(model, "nobody/nothing", (), allow_pickle=False)
    pixel = load("embedded-pixel", device="cpu", dtype="float32")
    with pytest.raises(Unsupported, match="takes no branch"):
        attach(pixel, "nothing.safetensors", (), allow_pickle=False)


@pytest.mark.parametrize(
    ("method", "model", "branch"),
    [
        ("blended-latent-diffusion", "embedded", None),
        ("stable-inpainting", "embedded-inpainting", None),
        ("brushnet", "embedded", "embedded-brushnet"),
        ("controlnet-inpainting", "embedded", "embedded-controlnet"),
    ],
)
def test_the_embedded_model_brings_what_a_method_needs(method: str, model: str, branch: str | None) -> None:
    chosen = Choice("embedded").for_method(method)
    assert (chosen.model, chosen.branch) == (model, branch)
    assert Choice("embedded", branch="mine").for_method(method).branch == "mine"
    assert Choice("other/model").for_method(method) == Choice("other/model")
