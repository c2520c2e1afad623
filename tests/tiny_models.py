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
def _seeded(seed: int) -> Iterator[None]:
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
    with _seeded(1):
        return _stable_diffusion(folder, unet=tiny_unet(), prediction_type="epsilon")


def tiny_sd2_v(folder: Path) -> Path:
    """Stable Diffusion 2.x at 768: v prediction, linear projections."""
    with _seeded(2):
        return _stable_diffusion(folder, unet=tiny_unet(use_linear_projection=True), prediction_type="v_prediction")


def tiny_inpainting(folder: Path) -> Path:
    """Stable Diffusion 1.x for inpainting: a UNet of nine channels."""
    with _seeded(3):
        return _stable_diffusion(folder, unet=tiny_unet(in_channels=9), prediction_type="epsilon")


def tiny_sdxl(folder: Path) -> Path:
    """SDXL: two text encoders, the second with a projection; time ids; an autoencoder that overflows in float16."""
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    time_width = 8
    with _seeded(4):
        tokenizer = clip_tokenizer()
        config = _text_config(len(tokenizer), projection_dim=TEXT_WIDTH)
        unet = tiny_unet(
            use_linear_projection=True,
            cross_attention_dim=2 * TEXT_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=time_width,
            projection_class_embeddings_input_dim=6 * time_width + TEXT_WIDTH,
        )
        pipe = StableDiffusionXLPipeline(
            vae=tiny_vae(scaling_factor=0.13025, force_upcast=True),
            text_encoder=CLIPTextModel(config),
            text_encoder_2=CLIPTextModelWithProjection(config),
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
    with _seeded(5):
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

    with _seeded(6):
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


def single_file(folder: Path, file: Path) -> Path:
    """Write the Stable Diffusion 1.x in `folder` as one file under CompVis' names, as checkpoints are shared."""
    from safetensors.torch import load_file, save_file

    weights = {}
    for name, tensor in load_file(folder / "unet/diffusion_pytorch_model.safetensors").items():
        weights["model.diffusion_model." + _compvis_unet(name)] = tensor
    for name, tensor in load_file(folder / "vae/diffusion_pytorch_model.safetensors").items():
        renamed = _compvis_vae(name)
        is_projection = "attn_1" in renamed and tensor.ndim == 2
        weights["first_stage_model." + renamed] = tensor[:, :, None, None] if is_projection else tensor
    for name, tensor in load_file(folder / "text_encoder/model.safetensors").items():
        weights["cond_stage_model.transformer.text_model." + name.removeprefix("text_model.")] = tensor
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)
    return file


def _replace(name: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name


def _compvis_unet(name: str) -> str:
    name = _replace(
        name,
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
        ("conv_in", "input_blocks.0.0"),
        ("mid_block.resnets.0", "middle_block.0"),
        ("mid_block.attentions.0", "middle_block.1"),
        ("mid_block.resnets.1", "middle_block.2"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.1.1.conv"),
    )
    for block in (0, 1):  # one layer per block on the way down and two on the way up
        for layer in (0, 1):
            down, up = f"input_blocks.{1 + 2 * block}", f"output_blocks.{2 * block + layer}"
            name = _replace(
                name,
                (f"down_blocks.{block}.resnets.{layer}", f"{down}.0"),
                (f"down_blocks.{block}.attentions.{layer}", f"{down}.1"),
                (f"up_blocks.{block}.resnets.{layer}", f"{up}.0"),
                (f"up_blocks.{block}.attentions.{layer}", f"{up}.1"),
            )
    if "transformer_blocks" in name or ".1." in name.replace(".1.conv", ""):
        return name
    return _replace(
        name,
        ("norm1", "in_layers.0"),
        ("conv1", "in_layers.2"),
        ("norm2", "out_layers.0"),
        ("conv2", "out_layers.3"),
        ("time_emb_proj", "emb_layers.1"),
        ("conv_shortcut", "skip_connection"),
    )


def _compvis_vae(name: str) -> str:
    name = _replace(
        name,
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
        ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
        ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
        ("mid_block.attentions.0.to_", "mid.attn_1."),
        ("conv_norm_out", "norm_out"),
        ("conv_shortcut", "nin_shortcut"),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        (".resnets.", ".block."),
    )
    for block in (0, 1):
        name = _replace(name, (f"down_blocks.{block}", f"down.{block}"), (f"up_blocks.{block}", f"up.{1 - block}"))
    return name


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

    with _seeded(7):
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


def tiny_guided_diffusion(file: Path | None, architecture: Any) -> Any:
    """An OpenAI guided-diffusion checkpoint of random weights under its published names, saved as a pickle as published.

    Without a file, the state dict itself on the meta device, of any size.
    """
    weights: dict[str, torch.Tensor] = {}
    with _seeded(8), torch.device("cpu" if file else "meta"):
        for name, *shape in _published_layers(architecture):
            around, spread = (1.0, 0.1) if len(shape) == 1 else (0.0, 0.1)
            weights[f"{name}.weight"] = around + spread * torch.randn(shape)
            if name != "label_emb":
                weights[f"{name}.bias"] = 0.1 * torch.randn(shape[0])
    if file is None:
        return weights
    torch.save(weights, file)
    return file


def _published_layers(architecture: Any) -> Iterator[tuple[Any, ...]]:
    """Name and weight shape of every layer of guided-diffusion's UNet."""
    time = 4 * architecture.model_channels
    yield "time_embed.0", time, architecture.model_channels
    yield "time_embed.2", time, time
    if architecture.classes:
        yield "label_emb", architecture.classes, time
    yield "input_blocks.0.0", architecture.widths[0], 3, 3, 3
    yield "out.0", architecture.widths[0]
    yield "out.2", architecture.out_channels, architecture.widths[0], 3, 3
    for name, inside, outside in _published_blocks(architecture):
        if outside is None:
            yield f"{name}.norm", inside
            yield f"{name}.qkv", 3 * inside, inside, 1
            yield f"{name}.proj_out", inside, inside, 1
            continue
        yield f"{name}.in_layers.0", inside
        yield f"{name}.in_layers.2", outside, inside, 3, 3
        yield f"{name}.emb_layers.1", 2 * outside, time
        yield f"{name}.out_layers.0", outside
        yield f"{name}.out_layers.3", outside, outside, 3, 3
        if inside != outside:
            yield f"{name}.skip_connection", outside, inside, 1, 1


def _published_blocks(architecture: Any) -> Iterator[tuple[str, int, int | None]]:
    """Name and channels in and out of every residual block; of an attention, its channels and None."""
    channels, last = architecture.widths[0], len(architecture.widths) - 1
    kept, i = [channels], 1
    for level, (width, attends) in enumerate(zip(architecture.widths, architecture.attention, strict=True)):
        for down in (False, False, True)[: 3 if level < last else 2]:
            yield f"input_blocks.{i}.0", channels, width
            if attends and not down:
                yield f"input_blocks.{i}.1", width, None
            channels, i = width, i + 1
            kept.append(channels)
    yield "middle_block.0", channels, channels
    yield "middle_block.1", channels, None
    yield "middle_block.2", channels, channels
    for i in range(3 * (last + 1)):
        level = last - i // 3
        width, attends = architecture.widths[level], architecture.attention[level]
        yield f"output_blocks.{i}.0", channels + kept.pop(), width
        channels = width
        if attends:
            yield f"output_blocks.{i}.1", width, None
        if i % 3 == 2 and level:
            yield f"output_blocks.{i}.{2 if attends else 1}", width, width
