"""Training on checkpoints of Stable Diffusion: of what is meant alone, from the base, loaded as it was trained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sfumato.backbones import loading
from sfumato.backbones.base import Conditions, Extra
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.lora_files import read_lora
from sfumato.errors import BackboneError, EditError, ModelNotFound, Unsupported
from sfumato.training import brushnet, controlnet, inpainting, publishing
from sfumato.training.denoiser import quick_attention
from sfumato.training.low_rank import LowRank
from sfumato.training.masked import MaskedPictures, draw_batch
from sfumato.training.masked_lessons import Lesson
from sfumato.training.stable_diffusion import (
    CheckpointTraining,
    Way,
    denoising_loss,
    encode_pictures,
    recompute,
)
from sfumato.training.trainable import check_base
from tests import tiny_models
from tests.tiny_checkpoints import single_file

SIDE, COUNT = 64, 4
LESSONS = {"inpainting": inpainting.LESSON, "brushnet": brushnet.LESSON, "controlnet": controlnet.LESSON}
RANK = Way(rank=4)
WHOLE = Way(rank=None)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of tiny models by the names of their builders, made when asked for."""
    home = tmp_path_factory.mktemp("models")

    def model(name: str) -> Path:
        folder = home / name
        return folder if folder.exists() else tiny_models.halving_thrice(getattr(tiny_models, name)(folder))

    return model


@pytest.fixture(params=LESSONS)
def lesson(request: pytest.FixtureRequest) -> Lesson:
    return LESSONS[request.param]


def course_of(lesson: Lesson, model: Path, way: Way, out: Path) -> CheckpointTraining:
    backbone = loading.load(str(model), device="cpu", dtype="float32")
    return CheckpointTraining(
        lesson=lesson,
        backbone=replace(backbone),
        size=SIDE,
        way=way,
        out=out,
        minutes=1,
        lr=1e-3,
        sheet=lambda *_: None,
    )


def batch(course: CheckpointTraining) -> Any:
    """Pictures of one colour each, whose middle is masked."""
    torch.manual_seed(0)
    pixels = (torch.rand(COUNT, 3, 1, 1) * 2 - 1).expand(COUNT, 3, SIDE, SIDE)
    mask = torch.zeros(COUNT, 1, SIDE, SIDE)
    mask[..., 16:48, 16:48] = 1
    x = course.backbone.autoencoder.encode(pixels)
    return x, torch.ones(COUNT, 1, SIDE // 8, SIDE // 8), pixels, mask, ["a ball", "", "a red cube", "grass"]


def loss_of(course: CheckpointTraining, given: Any) -> torch.Tensor:
    torch.manual_seed(1)  # the same levels and noise, so that losses compare
    return course.loss(*given)


def disturb(course: CheckpointTraining) -> None:
    """Let everything that is trained differ from its start, as float16 can hold it."""
    with torch.no_grad():
        for weight in course.change.parameters():
            weight.copy_((weight + 0.05 * torch.randn_like(weight)).half())


@pytest.mark.parametrize("way", [RANK, WHOLE], ids=["low rank", "whole"])
def test_it_starts_as_the_base(lesson: Lesson, way: Way, models: Callable[[str], Path], tmp_path: Path) -> None:
    unet: Any = loading.load(str(models("tiny_sd1")), device="cpu", dtype="float32").denoiser
    course = course_of(lesson, models("tiny_sd1"), way, tmp_path)
    x, _, pixels, mask, captions = batch(course)
    given, at = course.conditions(captions), torch.arange(0, 1000, 1000 // COUNT)[:COUNT]
    seen = lesson.see(course.backbone.autoencoder.encode, pixels, mask)
    assert given.text is not None
    assert torch.equal(lesson.predict(course, x, at, seen, given), unet.unet(x, at, given.text.states).sample)


@pytest.mark.parametrize("way", [RANK, WHOLE], ids=["low rank", "whole"])
def test_gradients_reach_what_is_trained_alone(lesson: Lesson, way: Way, models: Callable[[str], Path], tmp_path: Path) -> None:
    course = course_of(lesson, models("tiny_sd1"), way, tmp_path)
    disturb(course)
    loss_of(course, batch(course)).backward()
    trained = dict(course.change.named_parameters())
    ids = {id(weight) for weight in trained.values()}
    parts: Any = course.backbone
    modules = (course.base, course.network, parts.autoencoder.vae, *parts.text_encoder.parts().values())
    others = [w for module in modules if isinstance(module, torch.nn.Module) for w in module.parameters() if id(w) not in ids]
    assert all(weight.grad is None for weight in others)
    assert all(weight.grad is not None and weight.grad.any() for weight in trained.values() if weight.numel() > 8)
    if way is RANK:
        kept = {name.removeprefix("whole.").replace("/", ".") for name in trained if name.startswith("whole.")}
        assert kept
        assert all(name.startswith(lesson.adapted.whole) for name in kept)
        assert sum(weight.numel() for weight in trained.values()) < sum(w.numel() for w in course.network.parameters())
    else:
        assert ids == {id(weight) for weight in course.network.parameters()}


def test_the_loss_falls(lesson: Lesson, models: Callable[[str], Path], tmp_path: Path) -> None:
    model = models("tiny_sd2_v" if lesson is brushnet.LESSON else "tiny_sd1")
    course = course_of(lesson, model, RANK, tmp_path)
    given = batch(course)
    optimizer, losses = torch.optim.AdamW(course.change.parameters(), 1e-2), []
    for _ in range(20):
        loss = loss_of(course, given)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("epsilon", lambda x, eps, signal, noise: eps),
        ("v_prediction", lambda x, eps, signal, noise: signal * eps - noise * x),
        ("sample", lambda x, eps, signal, noise: x),
    ],
)
def test_the_loss_is_of_what_the_model_predicts_at_its_levels(kind: str, target: Callable[..., torch.Tensor]) -> None:
    """Betas of a root-linear schedule; an answer that is right has no loss, and one that is off by 1 has 1."""
    from diffusers import DDPMScheduler

    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": kind}
    kept = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    x, seen = torch.randn(64, 4, 2, 2), []

    def answer(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        seen.append(timesteps)
        signal, noise = (part[timesteps].view(-1, 1, 1, 1).float() for part in (kept.sqrt(), (1 - kept).sqrt()))
        return target(x, (noisy - signal * x) / noise, signal, noise)

    scheduler, weights = DDPMScheduler(**schedule), torch.ones(64, 1, 2, 2)
    assert denoising_loss(answer, scheduler, x, weights) < 1e-6
    assert denoising_loss(lambda *given: answer(*given) + 1, scheduler, x, weights) == pytest.approx(1, abs=1e-3)
    drawn = torch.cat(seen).float()
    assert drawn.min() < 100
    assert drawn.max() > 900
    assert drawn.mean() == pytest.approx(500, abs=100)


def test_activations_computed_again_give_the_same_gradients(
    lesson: Lesson, models: Callable[[str], Path], tmp_path: Path
) -> None:
    course = course_of(lesson, models("tiny_sd1"), RANK, tmp_path)
    disturb(course)
    given, gradients = batch(course), []
    for again in (False, True):
        if again:
            recompute(course.base)
            recompute(course.network)
        course.change.zero_grad()
        with quick_attention(course.device):  # on a CPU activations are computed again in the same way
            loss_of(course, given).backward()
        gradients.append([weight.grad.clone() for weight in course.change.parameters() if weight.grad is not None])
    for before, after in zip(*gradients, strict=True):
        torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", [RANK, WHOLE], ids=["low rank", "whole"])
def test_it_is_loaded_and_acts_as_it_was_trained(lesson: Lesson, way: Way, models: Callable[[str], Path], tmp_path: Path) -> None:
    folder = models("tiny_sd1")
    course = course_of(lesson, folder, way, tmp_path)
    disturb(course)
    course._on_save(course.run)
    x, _, pixels, mask, captions = batch(course)
    given = course.conditions(captions)
    seen = lesson.see(course.backbone.autoencoder.encode, pixels, mask)
    trained = lesson.predict(course, x, torch.full((COUNT,), 500), seen, given)
    result = str(tmp_path / "model")
    names = {"model": result} if lesson is inpainting.LESSON else {"model": str(folder), "branch": result}
    loaded = loading.load(**names, device="cpu", dtype="float32")  # type: ignore[arg-type]
    assert loaded.traits.can(lesson.gives)
    assert str(folder) not in "".join(path.read_text() for path in (tmp_path / "model").rglob("config.json"))
    edited = loaded.denoiser(x, 500.0, lesson.condition(given, seen)).prediction
    torch.testing.assert_close(edited, trained, rtol=1e-2, atol=2e-2)  # the file holds float16
    blind = loaded.denoiser(x, 500.0, lesson.condition(given, 0 * seen)).prediction
    assert (edited - trained).abs().mean() < 0.1 * (edited - blind).abs().mean()
    assert all(weight.requires_grad for weight in course.change.parameters())


def test_xl_is_trained_with_its_pooled_text_and_sizes(lesson: Lesson, models: Callable[[str], Path], tmp_path: Path) -> None:
    course = course_of(lesson, models("tiny_sdxl"), RANK, tmp_path)
    given: Conditions = course.conditions(["a ball", ""])
    assert given.text is not None
    assert given.text.pooled is not None
    assert given.extras[Extra.TIME_IDS].tolist() == [[SIDE, SIDE, 0, 0, SIDE, SIDE]] * 2
    assert not given.text.states[1].any()  # as XL reads no prompt
    loss_of(course, batch(course)).backward()
    course._on_save(course.run)
    result = str(tmp_path / "model")
    names = {"model": result} if lesson is inpainting.LESSON else {"model": str(models("tiny_sdxl")), "branch": result}
    assert loading.load(**names, device="cpu", dtype="float32").traits.can(lesson.gives)  # type: ignore[arg-type]
    if lesson is not inpainting.LESSON:
        with pytest.raises(Unsupported, match="another base"):
            loading.load(str(models("tiny_sd1")), device="cpu", branch=result)


def test_a_lora_is_saved_alone(models: Callable[[str], Path], tmp_path: Path) -> None:
    course = course_of(inpainting.LESSON, models("tiny_inpainting"), Way(rank=4, lora=True), tmp_path)
    before = {name: weight.clone() for name, weight in course.base.state_dict().items()}
    disturb(course)
    course._on_save(course.run)
    assert [path.name for path in (tmp_path / "model").iterdir()] == [publishing.LORA]
    file = read_lora(tmp_path / "model" / publishing.LORA)
    pairs, merged = load_file(file.path), course.change.weights()
    assert {name.removeprefix("unet.") for name in file.layers} == {
        name for name, layer in course.base.named_modules() if "attentions." in name and isinstance(layer, torch.nn.Linear)
    }
    for layer in file.layers:
        change = pairs[f"{layer}.lora_B.weight"].float() @ pairs[f"{layer}.lora_A.weight"].float()
        name = f"{layer.removeprefix('unet.')}.weight"
        assert change.abs().sum() > 0
        torch.testing.assert_close(before[name] + change, merged.pop(name).float(), rtol=1e-3, atol=1e-3)
    for name, weight in merged.items():
        assert torch.equal(weight, before[name].half())


def test_an_inpainting_model_goes_on(models: Callable[[str], Path], tmp_path: Path) -> None:
    course = course_of(inpainting.LESSON, models("tiny_inpainting"), RANK, tmp_path)
    assert course.base.config.in_channels == 9
    loss_of(course, batch(course)).backward()


def test_a_run_goes_on_with_its_own_model_alone(models: Callable[[str], Path], tmp_path: Path) -> None:
    course = course_of(inpainting.LESSON, models("tiny_sd1"), RANK, tmp_path)
    disturb(course)
    course.run.save()
    again = course_of(inpainting.LESSON, models("tiny_sd1"), RANK, tmp_path)
    for saved, loaded in zip(course.change.parameters(), again.change.parameters(), strict=True):
        assert torch.equal(saved, loaded)
    for model, way in (("tiny_sd2_v", RANK), ("tiny_sd1", WHOLE)):
        with pytest.raises(BackboneError) as caught:
            course_of(inpainting.LESSON, models(model), way, tmp_path)
        assert caught.value.code == "checkpoint-mismatch"


def test_own_pictures_are_drawn_with_their_captions(models: Callable[[str], Path], tmp_path: Path) -> None:
    for name, colour in (("duck", "yellow"), ("lawn", "green")):
        Image.new("RGB", (100, 80), colour).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"a {name}")
    backbone = loading.load(str(models("tiny_sd1")), device="cpu", dtype="float32")
    source = MaskedPictures(lambda images: encode_pictures(backbone, images), tmp_path, SIDE)
    assert source.latents.shape == (2, 4, SIDE // 8, SIDE // 8)
    x, weights, pixels, mask, samples = draw_batch(source, 20, np.random.default_rng(0))
    assert (x.dtype, weights.shape, mask.shape) == (torch.float32, (20, 1, 8, 8), (20, 1, SIDE, SIDE))
    assert {sample.caption for sample in samples} <= {"a duck", "a lawn", ""}
    torch.testing.assert_close(backbone.autoencoder.encode(pixels), x, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("gives", "name", "lora", "named"),
    [
        (Capability.INPAINTING, "tiny_sd1", True, "leave --lora out"),
        (Capability.BRUSHNET, "tiny_inpainting", False, "text-to-image"),
        (Capability.CONTROLNET, "tiny_ldm", False, "no Stable Diffusion"),
        (Capability.INPAINTING, "tiny_ddpm", False, "no Stable Diffusion"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_its_configuration(
    gives: Capability, name: str, lora: bool, named: str, tmp_path: Path
) -> None:
    folder = getattr(tiny_models, name)(tmp_path / "model")
    for weights in folder.rglob("*.safetensors"):
        weights.write_bytes(b"")
    with pytest.raises(Unsupported, match=named):
        check_base(str(folder), gives, lora=lora, allow_pickle=False)


def test_a_single_file_is_known_by_its_header(tmp_path: Path) -> None:
    file = single_file(tiny_models.tiny_sd1(tmp_path / "sd1"), tmp_path / "sd1.safetensors")
    check_base(str(file), Capability.BRUSHNET, lora=False, allow_pickle=False)
    with pytest.raises(Unsupported, match="leave --lora out"):
        check_base(str(file), Capability.INPAINTING, lora=True, allow_pickle=False)


@pytest.mark.parametrize(("model", "error"), [("embedded", Unsupported), ("./nowhere", ModelNotFound), (".", ModelNotFound)])
def test_no_checkpoint_is_refused(model: str, error: type[EditError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        check_base(model, Capability.INPAINTING, lora=False, allow_pickle=False)


def test_a_change_has_at_most_its_layers_rank() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 40))
    change = LowRank(network, "ab" * 32, 8)
    x = torch.randn(2, 3)
    with torch.no_grad():
        change.up["0"].normal_()
        weights = change.weights()
        expected = torch.nn.functional.linear(x, weights["0.weight"].float(), weights["0.bias"].float())
        torch.testing.assert_close(network(x), expected, rtol=1e-2, atol=1e-2)
    assert change.down["0"].shape == (3, 3)
