"""`sfumato train`: what it refuses, and one short run of each part on a few scenes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from sfumato import Editor
from sfumato.backbones.hub import WEIGHTS
from sfumato.backbones.loading import load
from sfumato.cli.main import app
from sfumato.cli.train_parts import PARTS
from sfumato.embedded import adapter
from sfumato.embedded.autoencoder import PatchAutoencoder
from sfumato.embedded.world.split import OTHERS
from sfumato.pictures.reading import read
from sfumato.training import decoder, distilled, glide, judge, samples, scenes
from sfumato.training.loop import Run
from sfumato.training.ranker import OTHER_SHARDS
from sfumato.training.scenes import HELD_OUT, render_shard

SHORT = ("--minutes", "0.01", "--workers", "1")

QUICK = {"denoiser", "inpainting", "glide"}  # one of each kind of part; the others are marked slow


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `sfumato train` in an empty folder, with small sheets of samples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(samples, "RUNS", {family: (solver, 2, scale) for family, (solver, _, scale) in samples.RUNS.items()})
    monkeypatch.setattr(samples, "PER_PROMPT", 1)
    return lambda *arguments: CliRunner().invoke(app, ["train", *map(str, arguments)])


def render_few(folder: Path) -> None:
    for index in (0, HELD_OUT, HELD_OUT + 1):
        render_shard(folder / "scenes", index, count=8)
    for index in (*range(OTHER_SHARDS), HELD_OUT):
        render_shard(folder / "others", index, count=8, part=OTHERS)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("moon",), "part-unknown", "world, autoencoder, plain-decoder, decoder, denoiser"),
        (("denoiser", "--size", "huge"), "size-unknown", "small, large"),
        (("ranker", "--data", "."), "option-contradiction", "--data"),
        (("denoiser",), "no-autoencoder", "sfumato train autoencoder"),
        (("denoiser", "--start-from", "embedded"), "no-scenes", "sfumato train world"),
        (("distilled",), "no-denoiser", "sfumato train denoiser"),
        (("flow",), "no-denoiser", "sfumato train denoiser"),
        (("autoencoder",), "no-scenes", "sfumato train world"),
        (("ranker",), "no-scenes", "sfumato train world"),
        (("pixel",), "no-scenes", "sfumato train world"),
        (("glide",), "no-pixel-model", "sfumato train pixel"),
        (("denoiser", "--minutes", "-1"), "option-invalid", "--minutes -1"),
        (("ranker", "--minutes", "0"), "option-invalid", "--minutes 0"),
        (("judge", "--minutes", "1e-9"), "option-invalid", "--minutes 1e-09"),
        (("pixel", "--minutes", "nan"), "option-invalid", "--minutes nan"),
        (("flow", "--lr", "-1"), "option-invalid", "--lr -1"),
        (("denoiser", "--lr", "0"), "option-invalid", "--lr 0"),
        (("distilled", "--lr", "nan"), "option-invalid", "--lr nan"),
        (("decoder", "--cooldown", "1.5"), "option-invalid", "--cooldown 1.5"),
        (("autoencoder", "--cooldown", "nan"), "option-invalid", "--cooldown nan"),
    ],
)
def test_what_cannot_work_is_refused(train: Callable[..., Result], arguments: tuple[str, ...], code: str, named: str) -> None:
    result = train(*arguments, "--workers", "1")
    assert result.exit_code == 2
    assert f"[{code}]" in result.stderr
    assert named in result.stderr


def test_a_checkpoint_is_not_trained_over(train: Callable[..., Result], tmp_path: Path) -> None:
    checkpoint = tmp_path / "training" / "ranker" / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    result = train("ranker")
    assert "[checkpoint-exists]" in result.stderr
    assert "--resume" in result.stderr
    assert checkpoint.read_bytes() == b"weights"


@pytest.mark.slow
def test_a_model_is_made_and_used(train: Callable[..., Result], tmp_path: Path) -> None:
    folder = tmp_path / "training"
    render_few(folder)
    for part in ("autoencoder", "denoiser", "flow", "distilled", "inpainting", "ranker", "pixel"):
        result = train(part, *SHORT, "--debug")
        assert result.exit_code == 0, result.stderr
        assert "samples" in result.stdout
    assert read(folder / "autoencoder" / "held-out.png").size == (8 * 128, 3 * 128)
    for part in ("denoiser", "flow", "distilled"):
        sheets = list((folder / part).glob("samples-*.png"))
        assert [read(sheet).size for sheet in sheets] == [(8 * 128, 128)]
    assert [read(sheet).size for sheet in (folder / "inpainting").glob("samples-*.png")] == [(8 * 128, 2 * 128)]
    for part in ("flow", "denoiser"):  # the adapter first, as training the denoiser changes what it was made for
        resumed = train(part, "--resume", *SHORT)
        assert resumed.exit_code == 0, resumed.stderr
    refused = train("flow", "--resume", *SHORT)
    assert "[adapter-mismatch]" in refused.stderr
    editor = Editor(model=str(folder / "denoiser" / "model"), device="cpu", dtype="float32")
    image = Image.new("RGB", (128, 128), "white")
    edited = editor.edit(image=image, box=(32, 32, 64, 64), prompt="a red ball", n=1, steps=2, rank="none")
    assert edited.images[0].size == (128, 128)


def test_a_cascade_is_made_of_the_shipped_models(
    train: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glide, "SHEET_STEPS", 2)
    monkeypatch.setattr(glide, "SHEET_UPSAMPLE_STEPS", 1)
    folder = tmp_path / "training"
    render_few(folder)
    result = train("glide", "--start-from", "embedded", *SHORT, "--debug")
    assert result.exit_code == 0, result.stderr
    assert [read(sheet).size for sheet in (folder / "glide").glob("samples-*.png")] == [(8 * 128, 2 * 128)]
    traits = load(str(folder / "glide" / "model"), device="cpu").traits
    assert (traits.family, traits.resolution) == ("embedded-glide", 128)


def test_no_workers_are_refused(train: Callable[..., Result]) -> None:
    result = train("denoiser", "--workers", "0")
    assert result.exit_code == 2
    assert "--workers" in result.stderr


@pytest.mark.parametrize("part", [pytest.param(part, marks=() if part in QUICK else pytest.mark.slow) for part in PARTS[1:]])
def test_a_part_without_a_step_writes_nothing(
    part: str, train: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a busy machine has no time for one in the minutes given."""
    begin = Run.__init__

    def hurried(run: Run, *arguments: Any, **options: Any) -> None:
        begin(run, *arguments, **options)
        run.seconds = -1.0

    monkeypatch.setattr(Run, "__init__", hurried)
    monkeypatch.setattr(scenes, "render", lambda *_: None)  # the judge's pairs, of which none is looked at
    monkeypatch.setattr(judge, "shards_of", lambda *_, **__: [])
    monkeypatch.setattr(judge, "load_pairs", lambda *_: [])
    folder = tmp_path / "training"
    render_few(folder)
    result = train(part, "--start-from", "embedded", *SHORT)
    assert result.exit_code == 2, result.stderr
    assert "[training-no-step]" in result.stderr
    assert "trained" not in result.stdout
    assert list((folder / part).iterdir()) == []


@pytest.mark.slow
def test_the_plain_decoder_is_trained_alone(train: Callable[..., Result], tmp_path: Path) -> None:
    folder = tmp_path / "training"
    render_few(folder)
    for again in ((), ("--resume",)):
        result = train("plain-decoder", "--start-from", "embedded", *again, *SHORT)
        assert result.exit_code == 0, result.stderr
    before = PatchAutoencoder.from_pretrained(WEIGHTS / "vae").float()
    after = PatchAutoencoder.from_pretrained(folder / "plain-decoder" / "model").float()
    kept = {name for name, weight in after.state_dict().items() if torch.equal(weight, before.state_dict()[name])}
    encoder = {name for name in after.state_dict() if name.startswith("encoder.")}
    assert encoder <= kept
    assert "decoder.linear.weight" not in kept  # of small weights float16 hides so few steps
    assert after.config.scaling_factor == before.config.scaling_factor


def test_of_the_decoder_only_what_sees_is_trained(
    train: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "LEAVES", 4)
    monkeypatch.setattr(decoder, "COUNT", 8)
    folder = tmp_path / "training"
    render_few(folder)
    for again in ((), ("--resume",)):
        result = train("decoder", "--start-from", "embedded", *again, *SHORT)
        assert result.exit_code == 0, result.stderr
        assert "dB unseeing" in result.stdout
    before = PatchAutoencoder.from_pretrained(WEIGHTS / "vae")
    after = PatchAutoencoder.from_pretrained(folder / "decoder" / "model")
    weights = after.state_dict()
    seeing = {name: weights.pop(name) for name in list(weights) if name.startswith("decoder.seeing.")}
    assert all(torch.equal(weight, before.state_dict()[name]) for name, weight in weights.items())
    assert any(not torch.equal(weight, before.state_dict()[name]) for name, weight in seeing.items())
    assert seeing["decoder.seeing.grain.weight"].any()
    assert after.config.scaling_factor == before.config.scaling_factor
    assert read(folder / "decoder" / "held-out.png").size == (8 * 64, 4 * 64)


def test_an_adapter_begins_with_the_one_of_the_weights_to_start_from(train: Callable[..., Result], tmp_path: Path) -> None:
    folder = tmp_path / "training"
    render_few(folder)
    result = train("flow", "--start-from", "embedded", *SHORT)
    assert result.exit_code == 0, result.stderr
    (_, before), (metadata, after) = (adapter.read(f / adapter.FILE) for f in (WEIGHTS / "flow", folder / "flow" / "model"))
    changes = [name for name in before if name.startswith("up.")]  # of a new adapter these are zero
    assert all(torch.allclose(after[name], before[name], atol=0.05) and after[name].any() for name in changes)
    assert metadata["base_sha256"] == adapter.base_digest(WEIGHTS)


def test_a_users_pictures_are_trained_on(train: Callable[..., Result], tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, name in enumerate(("one", "two")):
        Image.fromarray(np.full((150, 200, 3), 90 * i, np.uint8)).save(pictures / f"{name}.png")
    (pictures / "one.txt").write_text("a black cube")
    arguments = ("denoiser", "--data", pictures, "--start-from", "embedded")
    missing = train(*arguments, *SHORT)
    assert "two.png has no caption" in missing.stderr
    (pictures / "metadata.jsonl").write_text('{"file_name": "two.png", "text": "a white ball"}\n')
    result = train(*arguments, *SHORT)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "training" / "denoiser" / "model" / "unet" / "config.json").exists()


def test_the_teachers_step_ends_at_the_next_level() -> None:
    """With a teacher that knows the clean latents, one step down keeps them and the noise, and the last one is clean."""
    levels = distilled.Levels.of(torch.device("cpu"))
    clean, eps = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    index = torch.tensor([0, distilled.STEPS - 1])
    signal, noise = levels.at(index)

    class Oracle:
        def __call__(self, x: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> "Oracle":
            self.sample = torch.cat([signal * eps - noise * clean] * 2)
            return self

    states = torch.zeros(2, 1, 1)
    nearer = distilled.teacher_step(Oracle(), levels, signal * clean + noise * eps, index, states, states[:1])
    signal, noise = levels.at(index - 1)
    assert torch.allclose(nearer, signal * clean + noise * eps, atol=1e-5)
    assert torch.allclose(nearer[0], clean[0], atol=1e-5)
