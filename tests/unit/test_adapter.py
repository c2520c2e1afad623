"""Adapters of the embedded UNet: merged exactly, for their own base only, and trained without touching it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LCMScheduler
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sfumato import Editor
from sfumato.backbones import hub, loading
from sfumato.backbones.capabilities import Layout
from sfumato.embedded.adapter import FILE, UNET_WEIGHTS, Adapter, base_digest, merge, read, widen
from sfumato.errors import BackboneError, Unsupported
from sfumato.training.adapting import Teacher
from sfumato.training.denoiser import random_timesteps
from sfumato.training.distilled import Levels, consistency_loss
from sfumato.training.flow import Flow, flow_loss, velocity_of
from tests import tiny_models

DIGEST = "ab" * 32
RANK = 2
CPU = torch.device("cpu")


@pytest.fixture
def unet() -> Any:
    torch.manual_seed(0)
    return tiny_models.tiny_unet(sample_size=8, in_channels=8, out_channels=8).requires_grad_(False).eval()


def changed(unet: Any, digest: str = DIGEST) -> Adapter:
    adapter = Adapter(unet, digest, RANK)
    with torch.no_grad():
        for weight in (*adapter.up.values(), *adapter.whole.values()):
            weight.add_(0.1 * torch.randn_like(weight))
    return adapter


def test_merging_is_exact(unet: Any, tmp_path: Path) -> None:
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    path = changed(unet).save(tmp_path)
    merge(unet, path, DIGEST)
    parts = {name: weight.float() for name, weight in load_file(path).items()}
    low_rank = 0
    for name, weight in unet.state_dict().items():
        key = name.replace(".", "/")
        if f"up.{key}" in parts:
            delta = torch.einsum("or,ri->oi", parts[f"up.{key}"], parts[f"down.{key}"]).reshape(weight.shape)
            expected, low_rank = before[name] + delta, low_rank + 1
        else:
            expected = parts[f"whole.{key}"]
        assert (weight - expected).abs().max() < 1e-6, name
        assert not torch.equal(weight, before[name])
    assert low_rank > 30
    assert all(f"whole.{part}/weight" in parts for part in ("conv_in", "conv_out", "time_embedding/linear_1", "conv_norm_out"))


def test_what_is_trained_is_what_is_merged(unet: Any, tmp_path: Path) -> None:
    adapter = changed(unet)
    given = torch.randn(2, 8, 8, 8), torch.tensor([10, 900]), torch.randn(2, 5, tiny_models.TEXT_WIDTH)
    expected = adapter(unet, *given)
    merge(unet, adapter.save(tmp_path), DIGEST)
    assert (unet(*given).sample - expected).abs().max() < 0.02 * expected.abs().max()  # float16 in the file


def test_a_widened_unet_answers_as_before_whatever_is_added(unet: Any) -> None:
    x, *others = torch.randn(2, 8, 8, 8), torch.tensor([10, 900]), torch.randn(2, 5, tiny_models.TEXT_WIDTH)
    before = unet(x, *others).sample
    widen(unet, 17)
    assert unet.config.in_channels == unet.conv_in.in_channels == 17
    assert not unet.conv_in.weight.requires_grad
    assert torch.equal(unet(torch.cat([x, torch.randn(2, 9, 8, 8)], 1), *others).sample, before)


def test_a_widened_adapter_is_merged_into_a_unet_that_is_not_to_the_bit(unet: Any, tmp_path: Path) -> None:
    base, x = copy.deepcopy(unet), torch.randn(2, 17, 8, 8)
    given = x, torch.tensor([10, 900]), torch.randn(2, 5, tiny_models.TEXT_WIDTH)
    widen(unet, 17)
    path = changed(unet).save(tmp_path)
    saved = Adapter(unet, DIGEST, RANK)
    saved.load_state_dict(read(path)[1] | {"base": saved.base})  # as rounded to float16 in the file
    merge(base, path, DIGEST)
    assert base.config.in_channels == 17
    assert torch.equal(base(*given).sample, saved(unet, *given))
    assert not torch.equal(base(x.index_fill(1, torch.tensor(12), 0), *given[1:]).sample, base(*given).sample)


def test_a_module_born_of_the_unet_is_changed_too(unet: Any, tmp_path: Path) -> None:
    """As branches are: a part is a copy of the base, another is new and replaced."""
    born = torch.nn.ModuleDict({"unet": unet, "convolutions": torch.nn.Conv2d(32, 32, 1)})
    adapter = Adapter(born, DIGEST, RANK, whole=("unet.conv_in", "convolutions"))
    assert {"unet/conv_in/weight", "convolutions/weight"} <= adapter.whole.keys()
    assert "unet/conv_out/weight" in adapter.up
    with torch.no_grad():
        adapter.whole["convolutions/weight"].fill_(1)
        adapter.up["unet/conv_out/weight"].fill_(1)
    before = unet.conv_out.weight.clone()
    merge(born, adapter.save(tmp_path), DIGEST)
    assert (born["convolutions"].weight == 1).all()  # type: ignore[union-attr]
    assert not torch.equal(unet.conv_out.weight, before)


@pytest.mark.parametrize("change", [{"layers_per_block": 2}, {"block_out_channels": (32, 96)}, {"cross_attention_dim": 48}])
def test_an_adapter_of_another_network_is_refused(unet: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    path = changed(unet).save(tmp_path)
    other = tiny_models.tiny_unet(sample_size=8, in_channels=8, out_channels=8, **change)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(BackboneError, match="another kind of network"):
        merge(other, path, DIGEST)
    assert all(torch.equal(weight, before[name]) for name, weight in other.state_dict().items())


def test_merging_draws_nothing_from_the_global_generator(unet: Any, tmp_path: Path) -> None:
    path, before = changed(unet).save(tmp_path), torch.random.get_rng_state()
    merge(unet, path, DIGEST)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_new_adapter_changes_nothing(unet: Any) -> None:
    weights = Adapter(unet, DIGEST, RANK).weights(unet)
    assert weights.keys() == unet.state_dict().keys()
    assert all(torch.equal(weights[name], weight) for name, weight in unet.state_dict().items())


def test_another_base_is_refused(unet: Any, tmp_path: Path) -> None:
    before = copy.deepcopy(unet.state_dict())
    path = changed(unet).save(tmp_path)
    with safe_open(path, "pt") as file:
        assert file.metadata()["base_sha256"] == DIGEST
    with pytest.raises(
        BackboneError, match="was made for a UNet with SHA-256 abababababab, and this one has cdcdcdcdcdcd"
    ) as caught:
        merge(unet, path, "cd" * 32)
    assert caught.value.code == "adapter-mismatch"
    assert all(torch.equal(weight, before[name]) for name, weight in unet.state_dict().items())


def test_a_file_of_something_else_is_refused(unet: Any, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(BackboneError, match="sfumato train"):
        merge(unet, tmp_path / FILE, DIGEST)


def test_a_checkpoint_knows_its_base(unet: Any) -> None:
    saved = Adapter(unet, DIGEST, RANK).state_dict()
    other = Adapter(unet, "cd" * 32, RANK)
    other.check_base(Path("checkpoint.pt"))
    other.load_state_dict(saved)
    with pytest.raises(BackboneError, match=r"checkpoint\.pt"):
        other.check_base(Path("checkpoint.pt"))


def test_the_flow_is_the_denoisers_answer_in_other_variables() -> None:
    flow, clean, eps = Flow(CPU), torch.randn(64, 3, 4, 4), torch.randn(64, 3, 4, 4)
    _, signal, noise = flow.draw(64)
    preserved, s = signal * clean + noise * eps, noise / (signal + noise)
    assert torch.allclose(preserved / (signal + noise), (1 - s) * clean + s * eps, atol=1e-5)
    assert torch.allclose(velocity_of(signal * eps - noise * clean, preserved, signal, noise), eps - clean, atol=1e-5)
    assert s.max() <= 1
    torch.manual_seed(0)
    timesteps, signal, noise = flow.draw(20_000)
    torch.manual_seed(0)
    assert torch.equal(timesteps, random_timesteps(20_000, 1000, CPU))  # in the denoiser's own proportions
    assert 0.53 < (noise > signal).float().mean() < 0.56


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flow", "distilled"])
def test_a_few_steps_lower_the_loss_and_leave_the_base(unet: Any, kind: str) -> None:
    teacher, before = Teacher(unet, None, None, CPU), copy.deepcopy(unet.state_dict())  # type: ignore[arg-type]
    adapter, flow, levels = Adapter(unet, DIGEST, RANK), Flow(CPU), Levels.of(CPU)
    x, states = torch.randn(8, 8, 8, 8), torch.randn(8, 5, tiny_models.TEXT_WIDTH)
    optimizer, losses = torch.optim.AdamW(adapter.parameters(), 5e-3), []
    for _ in range(40):
        torch.manual_seed(1)  # the same levels and noise, so that losses compare
        if kind == "flow":
            loss = flow_loss(adapter, teacher, flow, x, states)
        else:
            loss = consistency_loss(adapter, adapter, teacher, levels, x, states, states[:1])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(weight, before[name]) for name, weight in unet.state_dict().items())


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The layout of the package's weights, tiny, with the adapters of whole models."""
    weights = tiny_models.tiny_embedded(tmp_path / "weights")
    monkeypatch.setattr(hub, "WEIGHTS", weights)
    torch.manual_seed(3)
    unet = tiny_models.tiny_unet(sample_size=8, in_channels=8, out_channels=8)
    digest = base_digest(weights)
    for name, scheduler in (
        ("flow", FlowMatchEulerDiscreteScheduler(shift=1.0)),
        ("fast", LCMScheduler(beta_schedule="scaled_linear", rescale_betas_zero_snr=True, prediction_type="v_prediction")),
    ):
        unet.load_state_dict(load_file(weights / UNET_WEIGHTS))
        changed(unet, digest).save(weights / name)
        scheduler.save_pretrained(weights / name / "scheduler")
    unet.load_state_dict(load_file(weights / UNET_WEIGHTS))
    widen(unet, 17)
    changed(unet, digest).save(weights / "inpainting")
    return weights


@pytest.mark.parametrize(
    ("model", "solver", "steps", "scale", "prediction", "told"),
    [
        ("embedded-flow", "flow-euler", 20, 4.0, "flow", [950.0, 900.0]),
        ("embedded-fast", "lcm", 4, 1.0, "v_prediction", [999.0, 759.0, 499.0, 259.0]),
    ],
)
def test_both_models_edit(
    shipped: Path,
    picture_file: Path,
    mask_file: Path,
    model: str,
    solver: str,
    steps: int,
    scale: float,
    prediction: str,
    told: list[float],
) -> None:
    editor = Editor(model, dtype="float32")
    assert (editor.backbone.traits.family, editor.backbone.traits.prediction) == (model, prediction)
    denoiser: Any = editor.backbone.denoiser
    base = load_file(shipped / UNET_WEIGHTS)
    assert not any(torch.equal(weight, base[name]) for name, weight in denoiser.unet.state_dict().items())
    heard: list[tuple[float, int]] = []
    denoiser.unet.register_forward_pre_hook(lambda _, given: heard.append((float(given[1]), len(given[0]))))
    fields: dict[str, Any] = {"image": picture_file, "mask": mask_file, "prompt": "a red ball", "n": 1, "rank": "none"}
    request = editor.edit(**fields).request
    assert (request.scheduler, request.steps, request.guidance_scale) == (solver, steps, scale)
    assert [timestep for timestep, _ in heard][: len(told)] == told
    assert {count for _, count in heard} == {1 if scale == 1 else 2}
    with pytest.raises(Unsupported, match="blended-latent-diffusion"):
        editor.edit(**fields, method="repaint")


def test_the_inpainting_model_is_the_embedded_one_that_reads_more(shipped: Path) -> None:
    traits = loading.load("embedded-inpainting").traits
    assert (traits.family, traits.layout) == ("embedded", Layout.INPAINTING)
    assert traits.scheduler_config == loading.load("embedded").traits.scheduler_config


def test_all_are_listed_and_belong_to_their_base(shipped: Path) -> None:
    names = ["embedded", "embedded-flow", "embedded-fast", "embedded-inpainting"]
    assert [row["name"] for row in loading.cached_models()] == names
    assert [row["family"] for row in loading.cached_models()] == [*names[:3], "embedded"]
    weights = load_file(shipped / UNET_WEIGHTS)
    save_file({name: weight + 1 for name, weight in weights.items()}, shipped / UNET_WEIGHTS)
    for model in names[1:]:
        with pytest.raises(BackboneError, match=r"adapter\.safetensors was made for a UNet"):
            loading.load(model)
    assert loading.load("embedded").traits.family == "embedded"
