"""Tiny checkpoints in the formats that others publish: CompVis' single files and guided-diffusion's state dicts."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests.tiny_models import seeded


def single_file(folder: Path, file: Path) -> Path:
    """Write the Stable Diffusion 1.x in `folder` as one file under CompVis' names, as checkpoints are shared."""
    from safetensors.torch import load_file, save_file

    weights = _networks(folder)
    for name, tensor in load_file(folder / "text_encoder/model.safetensors").items():
        weights["cond_stage_model.transformer.text_model." + name.removeprefix("text_model.")] = tensor
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)
    return file


def single_file_xl(folder: Path, file: Path, **marks: torch.Tensor) -> Path:
    """Write the SDXL in `folder` as one file under Stability AI's names, with marker tensors."""
    from safetensors.torch import load_file, save_file

    weights = _networks(folder)
    first, second = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
    for name, tensor in load_file(folder / "text_encoder/model.safetensors").items():
        weights[first + name.removeprefix("text_model.")] = tensor
    encoder = {
        name.removeprefix("text_model."): tensor
        for name, tensor in load_file(folder / "text_encoder_2/model.safetensors").items()
    }
    weights[second + "text_projection"] = encoder.pop("text_projection.weight").T
    layers = {name.split(".")[2] for name in encoder if name.startswith("encoder.layers.")}
    for layer, kind in ((layer, kind) for layer in layers for kind in ("weight", "bias")):
        parts = [encoder.pop(f"encoder.layers.{layer}.self_attn.{part}_proj.{kind}") for part in "qkv"]
        weights[f"{second}transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
    weights |= {second + _open_clip(name): tensor for name, tensor in encoder.items()}
    save_file({name: tensor.contiguous() for name, tensor in (weights | marks).items()}, file)
    return file


def _networks(folder: Path) -> dict[str, torch.Tensor]:
    """The UNet and the autoencoder under CompVis' names."""
    from safetensors.torch import load_file

    weights = {}
    for name, tensor in load_file(folder / "unet/diffusion_pytorch_model.safetensors").items():
        added = _replace(name, ("add_embedding.linear_1", "label_emb.0.0"), ("add_embedding.linear_2", "label_emb.0.2"))
        weights["model.diffusion_model." + (added if added != name else _compvis_unet(name))] = tensor
    for name, tensor in load_file(folder / "vae/diffusion_pytorch_model.safetensors").items():
        renamed = _compvis_vae(name)
        is_projection = "attn_1" in renamed and tensor.ndim == 2
        weights["first_stage_model." + renamed] = tensor[:, :, None, None] if is_projection else tensor
    return weights


def _open_clip(name: str) -> str:
    return _replace(
        name,
        ("embeddings.position_embedding.weight", "positional_embedding"),
        ("embeddings.token_embedding", "token_embedding"),
        ("final_layer_norm", "ln_final"),
        ("encoder.layers", "transformer.resblocks"),
        ("layer_norm1", "ln_1"),
        ("layer_norm2", "ln_2"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
        ("self_attn", "attn"),
    )


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


def tiny_guided_diffusion(file: Path | None, architecture: Any) -> Any:
    """An OpenAI guided-diffusion checkpoint of random weights under its published names, saved as a pickle as published.

    Without a file, the state dict itself on the meta device, of any size.
    """
    with seeded(8), torch.device("cpu" if file else "meta"):
        weights = drawn(published_layers(architecture))
    if file is None:
        return weights
    torch.save(weights, file)
    return file


def drawn(layers: Iterable[tuple[Any, ...]]) -> dict[str, torch.Tensor]:
    """Random weights of layers, given by name and weight shape."""
    weights: dict[str, torch.Tensor] = {}
    for name, *shape in layers:
        around, spread = (1.0, 0.1) if len(shape) == 1 else (0.0, 0.1)
        weights[f"{name}.weight"] = around + spread * torch.randn(shape)
        if name != "label_emb":
            weights[f"{name}.bias"] = 0.1 * torch.randn(shape[0])
    return weights


def published_layers(architecture: Any, reads: int = 3, text: int | None = None) -> Iterator[tuple[Any, ...]]:
    """Name and weight shape of every layer of guided-diffusion's UNet, or of GLIDE's, which reads a text of some width."""
    time = 4 * architecture.model_channels
    yield "time_embed.0", time, architecture.model_channels
    yield "time_embed.2", time, time
    if architecture.classes:
        yield "label_emb", architecture.classes, time
    yield "input_blocks.0.0", architecture.widths[0], reads, 3, 3
    yield "out.0", architecture.widths[0]
    yield "out.2", architecture.out_channels, architecture.widths[0], 3, 3
    for name, inside, outside in _published_blocks(architecture):
        if outside is None:
            yield f"{name}.norm", inside
            yield f"{name}.qkv", 3 * inside, inside, 1
            yield f"{name}.proj_out", inside, inside, 1
            if text is not None:
                yield f"{name}.encoder_kv", 2 * inside, text, 1
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
    kept, i, stride = [channels], 1, architecture.num_res_blocks + 1
    for level, (width, attends) in enumerate(zip(architecture.widths, architecture.attention, strict=True)):
        for down in ((False,) * (stride - 1) + (True,))[: stride if level < last else stride - 1]:
            yield f"input_blocks.{i}.0", channels, width
            if attends and not down:
                yield f"input_blocks.{i}.1", width, None
            channels, i = width, i + 1
            kept.append(channels)
    yield "middle_block.0", channels, channels
    yield "middle_block.1", channels, None
    yield "middle_block.2", channels, channels
    for i in range(stride * (last + 1)):
        level = last - i // stride
        width, attends = architecture.widths[level], architecture.attention[level]
        yield f"output_blocks.{i}.0", channels + kept.pop(), width
        channels = width
        if attends:
            yield f"output_blocks.{i}.1", width, None
        if i % stride == stride - 1 and level:
            yield f"output_blocks.{i}.{2 if attends else 1}", width, width


def tiny_powerpaint(folder: Path, *, dev: bool = False) -> Path:
    """PowerPaint as others share it: an inpainting checkpoint whose text encoder has named rows for the words of tasks.

    With `dev` the names and their order are those of the authors' later training.
    """
    from transformers import CLIPTextModel, CLIPTokenizer

    from tests.tiny_models import tiny_inpainting

    tiny_inpainting(folder)
    words = ("P_obj", "P_ctxt", "P_shape") if dev else ("P_ctxt", "P_shape", "P_obj")
    names = [word if dev and i == 0 else f"{word}_{i}" for word in words for i in range(10)]
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    tokenizer.add_tokens(names)
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    with seeded(21), torch.no_grad():
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        encoder.get_input_embeddings().weight[-30:] = torch.randn(30, encoder.config.hidden_size)
    tokenizer.save_pretrained(folder / "tokenizer")
    encoder.save_pretrained(folder / "text_encoder")
    return folder


def published_powerpaint(repack: Path, folder: Path) -> Path:
    """The two files that PowerPaint's authors published, made of the same weights as others share."""
    from safetensors.torch import load_file, save_file

    weights = load_file(repack / "unet/diffusion_pytorch_model.safetensors")
    text = {
        name.removeprefix("text_model."): tensor for name, tensor in load_file(repack / "text_encoder/model.safetensors").items()
    }
    table = text.pop("embeddings.token_embedding.weight")
    text["embeddings.token_embedding.wrapped.weight"] = table[:-30].clone()
    for i, word in enumerate(("P_ctxt", "P_shape", "P_obj")):
        text[f"embeddings.token_embedding.trainable_embeddings.{word}"] = table[-30 + 10 * i :][:10].clone()
    text["embeddings.position_ids"] = torch.arange(77)[None]
    for part, tensors in (("unet", weights), ("text_encoder", {f"text_model.{name}": tensor for name, tensor in text.items()})):
        (folder / part).mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / part / f"{part}.safetensors")
    return folder
