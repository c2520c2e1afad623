"""Tiny flow-matching pipelines of diffusers' own classes, with random weights, as folders; the counterpart of `tiny_models`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.tiny_models import clip_tokenizer, seeded, tiny_vae

WIDTH = 16
CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def scheduler(**changes: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**changes)


def dynamic_scheduler(**changes: Any) -> Any:
    return scheduler(shift=1.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, **changes)


def clip_text(projection: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    count = len(clip_tokenizer())
    config = CLIPTextConfig(
        vocab_size=count,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=WIDTH,
        bos_token_id=count - 2,
        eos_token_id=count - 1,
        pad_token_id=count - 1,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def t5() -> tuple[Any, Any]:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -4.0) for letter in "▁abcdefghijklmnopqrstuvwxyz,.")]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = T5TokenizerFast(tokenizer_object=backend, extra_ids=0, model_max_length=512)
    config = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu")
    return tokenizer, T5EncoderModel(config)


def qwen_tokenizer() -> Any:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocabulary = {
        token: i for i, token in enumerate([*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    }
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], unk_token="<|endoftext|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHAT
    return tokenizer


def qwen3(layers: int) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(_qwen_config(Qwen3Config, layers))


def _qwen_config(kind: Any, layers: int) -> Any:
    return kind(
        vocab_size=300,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=2048,
    )


def tiny_sd3(folder: Path) -> Path:
    """Stable Diffusion 3: three text encoders, a static shift."""
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    with seeded(21):
        tokenizer_3, text_encoder_3 = t5()
        pipe = StableDiffusion3Pipeline(
            transformer=SD3Transformer2DModel(
                sample_size=32,
                in_channels=4,
                out_channels=4,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=32,
                caption_projection_dim=16,
                pooled_projection_dim=2 * WIDTH,
                pos_embed_max_size=32,
            ),
            scheduler=scheduler(shift=3.0),
            vae=tiny_vae(scaling_factor=1.5305, shift_factor=0.0609),
            text_encoder=clip_text(projection=True),
            tokenizer=clip_tokenizer(),
            text_encoder_2=clip_text(projection=True),
            tokenizer_2=clip_tokenizer(),
            text_encoder_3=text_encoder_3,
            tokenizer_3=tokenizer_3,
        )
    pipe.save_pretrained(folder)
    return folder


def tiny_flux(folder: Path) -> Path:
    """FLUX.1 [dev]: packed latents, a guidance embedding, a shift that grows with the picture."""
    from diffusers import FluxPipeline, FluxTransformer2DModel

    with seeded(22):
        tokenizer_2, text_encoder_2 = t5()
        pipe = FluxPipeline(
            transformer=FluxTransformer2DModel(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=32,
                pooled_projection_dim=WIDTH,
                guidance_embeds=True,
                axes_dims_rope=(2, 2, 4),
            ),
            scheduler=dynamic_scheduler(),
            vae=tiny_vae(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=clip_text(),
            tokenizer=clip_tokenizer(),
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
        )
    pipe.save_pretrained(folder)
    return folder


def tiny_flux2(folder: Path) -> Path:
    """FLUX.2 [klein]: latents standardised by a batch norm, three layers of Qwen3 side by side."""
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel

    with seeded(23):
        vae = AutoencoderKLFlux2(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=32,
        )
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2.0)
        pipe = Flux2KleinPipeline(
            transformer=Flux2Transformer2DModel(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=3 * WIDTH,
                timestep_guidance_channels=16,
                axes_dims_rope=(4, 4, 4, 4),
                guidance_embeds=False,
            ),
            scheduler=dynamic_scheduler(),
            vae=vae,
            text_encoder=qwen3(28),
            tokenizer=qwen_tokenizer(),
        )
    pipe.save_pretrained(folder)
    return folder


def tiny_z_image(folder: Path) -> Path:
    """Z-Image: texts of their own length each, and an answer of the other sign."""
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    with seeded(24):
        transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            axes_dims=[4, 6, 6],
            axes_lens=[1024, 64, 64],
        )
        for parameter in (transformer.x_pad_token, transformer.cap_pad_token):  # diffusers leaves them uninitialised
            torch.nn.init.normal_(parameter)
        pipe = ZImagePipeline(
            transformer=transformer,
            scheduler=scheduler(shift=3.0),
            vae=tiny_vae(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=qwen3(3),
            tokenizer=qwen_tokenizer(),
        )
    pipe.save_pretrained(folder)
    return folder


def tiny_qwen_image(folder: Path) -> Path:
    """Qwen-Image: a video autoencoder, a vision-language text encoder, a schedule that ends before it is clean."""
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    with seeded(25):
        config = Qwen2_5_VLConfig(
            text_config={
                "vocab_size": 300,
                "hidden_size": WIDTH,
                "intermediate_size": 24,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "max_position_embeddings": 2048,
                "rope_scaling": {"type": "default", "mrope_section": [1, 1, 2], "rope_type": "default"},
            },
            vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH},
        )
        pipe = QwenImagePipeline(
            transformer=QwenImageTransformer2DModel(
                in_channels=16,
                out_channels=4,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=WIDTH,
                axes_dims_rope=(2, 2, 4),
            ),
            scheduler=dynamic_scheduler(shift_terminal=0.02),
            vae=AutoencoderKLQwenImage(
                base_dim=8,
                z_dim=4,
                dim_mult=[1, 2],
                num_res_blocks=1,
                temperal_downsample=[False],
                latents_mean=[0.1, -0.2, 0.3, 0.0],
                latents_std=[1.5, 0.8, 1.0, 2.0],
            ),
            text_encoder=Qwen2_5_VLForConditionalGeneration(config),
            tokenizer=qwen_tokenizer(),
        )
    pipe.save_pretrained(folder)
    return folder


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "sd3": tiny_sd3,
    "flux": tiny_flux,
    "flux2": tiny_flux2,
    "z-image": tiny_z_image,
    "qwen-image": tiny_qwen_image,
}
