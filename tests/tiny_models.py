"""Complete pipelines of a few thousand random weights, as folders in diffusers' format. Built without network in about a second.

The classes are the real ones; only the sizes are small. Each builder takes a folder, writes the model there and returns it; the
same call always writes the same weights.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

WIDTHS = (32, 64)
TEXT_WIDTH = 32
SIDE = 16  # latent cells, so that native pictures are 32 pixels: the autoencoder halves once
EMBEDDED_WORDS = ("a", "red", "blue", "ball", "cube", "on", "grass", "the", "of", ",")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def tiny_unet(**changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    options: dict[str, Any] = {
        "sample_size": SIDE,
        "block_out_channels": WIDTHS,
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**options | changes)


def tiny_vae(**changes: Any) -> Any:
    from diffusers import AutoencoderKL

    options: dict[str, Any] = {
        "block_out_channels": WIDTHS,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "norm_num_groups": 8,
        "sample_size": 2 * SIDE,
    }
    return AutoencoderKL(**options | changes)


def clip_tokenizer() -> Any:
    """CLIP's own kind of tokenizer over single bytes: no merges, so words become letters."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def _text_config(vocabulary: int, **changes: Any) -> Any:
    from transformers import CLIPTextConfig

    options: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
    return CLIPTextConfig(**options | changes)


def _scheduler(**changes: Any) -> Any:
    from diffusers import DDIMScheduler

    options: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return DDIMScheduler(**options | changes)


def _stable_diffusion(folder: Path, *, unet: Any, prediction_type: str) -> Path:
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextModel

    tokenizer = clip_tokenizer()
    pipe = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(_text_config(len(tokenizer))),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=_scheduler(prediction_type=prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def tiny_sd1(folder: Path) -> Path:
    """Stable Diffusion 1.x: epsilon prediction."""
    with seeded(1):
        return _stable_diffusion(folder, unet=tiny_unet(), prediction_type="epsilon")


def tiny_sd2_v(folder: Path) -> Path:
    """Stable Diffusion 2.x at 768: v prediction, linear projections."""
    with seeded(2):
        return _stable_diffusion(folder, unet=tiny_unet(use_linear_projection=True), prediction_type="v_prediction")


def tiny_inpainting(folder: Path) -> Path:
    """Stable Diffusion 1.x for inpainting: a UNet of nine channels."""
    with seeded(3):
        _stable_diffusion(folder, unet=tiny_unet(in_channels=9), prediction_type="epsilon")
    rewrite_json(folder / "model_index.json", _class_name="StableDiffusionInpaintPipeline")
    return folder


def halving_thrice(folder: Path) -> Path:
    """Give a Stable Diffusion in a folder an autoencoder of eight pixels a cell, as published, and 64 pixels as its size."""
    options: dict[str, Any] = {"block_out_channels": (8,) * 4, "norm_num_groups": 4}
    options |= {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    config = json.loads((folder / "vae" / "config.json").read_text())
    with seeded(10):
        tiny_vae(**options, sample_size=64, scaling_factor=config["scaling_factor"]).save_pretrained(folder / "vae")
    rewrite_json(folder / "unet" / "config.json", sample_size=8)
    return folder


def tiny_smartbrush(folder: Path) -> Path:
    """A SmartBrush of Stable Diffusion 1.x: it reads mask and precision beside the latents, and predicts a mask."""
    with seeded(11):
        return _stable_diffusion(folder, unet=tiny_unet(in_channels=6, out_channels=5), prediction_type="epsilon")


def tiny_controlnet(folder: Path, seed: int = 9, widths: tuple[int, ...] = (16, 32), **changes: Any) -> Path:
    """A ControlNet for `tiny_unet` with these changes, in diffusers' format; no weight is zero.

    Its picture has two pixels a latent cell, as the tiny autoencoder; with four widths eight, as published.
    """
    from diffusers import ControlNetModel

    with seeded(seed):
        network = ControlNetModel.from_unet(tiny_unet(**changes), conditioning_embedding_out_channels=widths)
        for parameter in network.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        network.save_pretrained(folder)
    return folder


def tiny_inpainting_xl(folder: Path) -> Path:
    """SDXL for inpainting, with the index that it is published with."""
    tiny_sdxl(folder, second_width=2 * TEXT_WIDTH, in_channels=9)
    changes = {"_class_name": "StableDiffusionXLInpaintPipeline", "requires_aesthetics_score": False}
    rewrite_json(folder / "model_index.json", **changes)
    return folder


def tiny_sdxl(folder: Path, second_width: int = TEXT_WIDTH, in_channels: int = 4) -> Path:
    """SDXL: two text encoders, the second with a projection; time ids; an autoencoder that overflows in float16.

    diffusers tells the two in a single file by their widths, so there they must differ.
    """
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    time_width = 8
    with seeded(4):
        tokenizer = clip_tokenizer()
        config = _text_config(len(tokenizer), projection_dim=TEXT_WIDTH)
        second = _text_config(len(tokenizer), projection_dim=TEXT_WIDTH, hidden_size=second_width)
        unet = tiny_unet(
            in_channels=in_channels,
            use_linear_projection=True,
            cross_attention_dim=TEXT_WIDTH + second_width,
            addition_embed_type="text_time",
            addition_time_embed_dim=time_width,
            projection_class_embeddings_input_dim=6 * time_width + TEXT_WIDTH,
        )
        pipe = StableDiffusionXLPipeline(
            vae=tiny_vae(scaling_factor=0.13025, force_upcast=True),
            text_encoder=CLIPTextModel(config),
            text_encoder_2=CLIPTextModelWithProjection(second),
            tokenizer=tokenizer,
            tokenizer_2=clip_tokenizer(),
            unet=unet,
            scheduler=_scheduler(),
            add_watermarker=False,
        )
        pipe.save_pretrained(folder)
    return folder


def tiny_ldm(folder: Path) -> Path:
    """CompVis text-to-image Latent Diffusion: a BERT tokenizer and its own text transformer."""
    from diffusers import LDMTextToImagePipeline
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
    from transformers import BertTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters)]
    with seeded(5):
        config = LDMBertConfig(
            vocab_size=len(tokens),
            max_position_embeddings=77,
            encoder_layers=2,
            encoder_ffn_dim=37,
            encoder_attention_heads=4,
            head_dim=8,
            d_model=TEXT_WIDTH,
        )
        pipe = LDMTextToImagePipeline(
            vqvae=tiny_vae(),
            bert=LDMBertModel(config),
            tokenizer=BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}, model_max_length=77),
            unet=tiny_unet(),
            scheduler=_scheduler(),
        )
        pipe.save_pretrained(folder)
    return folder


def tiny_embedded(folder: Path, scheduler: Any = None) -> Path:
    """The layout of the model that ships, with ten words; with a flow-matching scheduler, a model of that kind."""
    from transformers import CLIPTextModel

    from sfumato.embedded.autoencoder import PatchAutoencoder

    with seeded(6):
        tokenizer = word_tokenizer(EMBEDDED_WORDS)
        end = tokenizer.eos_token_id
        config = _text_config(len(tokenizer), max_position_embeddings=16, bos_token_id=1, eos_token_id=end, pad_token_id=0)
        parts = {
            "vae": PatchAutoencoder(block_out_channels=(8, 8, 16, 16), scaling_factor=0.9, shift_factor=0.1),
            "unet": tiny_unet(sample_size=8, in_channels=8, out_channels=8),
            "text_encoder": CLIPTextModel(config),
            "tokenizer": tokenizer,
            "scheduler": scheduler or _scheduler(prediction_type="v_prediction"),
        }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    return folder


def word_tokenizer(words: tuple[str, ...]) -> Any:
    """Whole words, lower-cased; any other word is [UNK]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(("[PAD]", "[BOS]", "[UNK]", *words, "[EOS]"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", vocabulary["[BOS]"]), ("[EOS]", vocabulary["[EOS]"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        unk_token="[UNK]",
        model_max_length=16,
    )


def hub_cache(cache: Path, repository: str, folder: Path) -> Path:
    """Put a model folder into a hub cache, as a download would, and return its snapshot."""
    home = cache / f"models--{repository.replace('/', '--')}"
    revision = "0" * 40
    snapshot = home / "snapshots" / revision
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(revision)
    for path in folder.rglob("*"):
        if path.is_file():
            copy = snapshot / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return snapshot


def rewrite_json(path: Path, **changes: Any) -> None:
    """Change values of a JSON file, in place."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def tiny_ddpm(folder: Path) -> Path:
    """An unconditional pixel model in diffusers' format, 64 pixels."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    with seeded(7):
        unet = UNet2DModel(
            sample_size=64,
            block_out_channels=(16, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
        )
        DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(folder)
    return folder
