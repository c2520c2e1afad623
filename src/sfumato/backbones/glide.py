"""Reader of OpenAI's GLIDE for inpainting (Nichol et al., ICML 2022, arXiv:2112.10741): a base of 64 pixels, an upsampler to 256.

Each is published as one flat state dict, a UNet and a text transformer together. Both UNets are diffusers' UNet2DConditionModel,
whose attention reads the text in front of the picture, as published; the transformer is torch's. Names are mapped as in
`guided_diffusion.py`. Facts from openai/glide-text2im (MIT).
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Tokenizer

from sfumato.backbones import glide_text, guided_diffusion
from sfumato.backbones.base import Backbone, Text
from sfumato.backbones.cascade import BASE_READS, UPSAMPLER_READS, UPSCALING, Stage, cascade_backbone
from sfumato.backbones.checkpoints import check_complete, check_file, read_json
from sfumato.backbones.converting import check_new, read_state_dict, written_folder
from sfumato.backbones.glide_text import GlideText, TextTransformer, is_text, make_text, to_torch
from sfumato.backbones.guided_diffusion import Architecture, is_unet, read_architecture, to_diffusers
from sfumato.backbones.headers import read_header
from sfumato.backbones.hub import cached_snapshot
from sfumato.backbones.pixel import COLOURS
from sfumato.errors import BackboneError, ModelNotFound, Unsupported
from sfumato.masks.window import CONTEXT

CLASS_NAME = "Glide"
VOCABULARY = "openai-community/gpt2"
VOCABULARY_FILES = {"vocab.json": "encoder.json", "merges.txt": "vocab.bpe"}  # and as OpenAI names them

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is published of one of the two.

    Args:
        name: As in messages; of its file in a converted folder, too.
        reads: Input channels of its UNet.
        res_blocks: Residual blocks per level.
        noise: Its schedule, with diffusers' keys.
    """

    name: str
    reads: int
    res_blocks: int
    noise: Mapping[str, Any]

    @property
    def file(self) -> str:
        """Name of its file in a converted folder."""
        return f"{self.name}.safetensors"


_EPSILON = {"prediction_type": "epsilon"}
PARTS = (
    Part(name="base", reads=COLOURS + BASE_READS, res_blocks=3, noise=_EPSILON | {"beta_schedule": "squaredcos_cap_v2"}),
    Part(
        name="upsampler",
        reads=COLOURS + UPSAMPLER_READS,
        res_blocks=2,
        noise=_EPSILON | {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    ),
)


def make_unet(architecture: Architecture, part: Part, text_width: int) -> UNet2DConditionModel:
    """The UNet of one of the two as diffusers has it."""
    levels = architecture.attention
    return UNet2DConditionModel(
        sample_size=architecture.image_size,
        in_channels=part.reads,
        out_channels=architecture.out_channels,
        block_out_channels=architecture.widths,
        layers_per_block=architecture.num_res_blocks,
        down_block_types=tuple("SimpleCrossAttnDownBlock2D" if level else "ResnetDownsampleBlock2D" for level in levels),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=tuple("SimpleCrossAttnUpBlock2D" if level else "ResnetUpsampleBlock2D" for level in reversed(levels)),
        cross_attention_dim=text_width,
        attention_head_dim=architecture.head_channels,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",  # the text's vector, as wide as the time embedding
    )


def check_part(shapes: Shapes, part: Part, source: Path) -> Architecture:
    """The architecture of one of the two, from names and shapes alone.

    Raises:
        Unsupported: Weights of something else, the other of the two, or GLIDE without inputs for the mask.
        BackboneError: If tensors are missing, or there are others.
    """
    text = {"transformer_proj.weight", "positional_embedding", "padding_embedding", "token_embedding.weight"}
    if not is_unet(shapes, part.res_blocks) or not text <= shapes.keys():
        raise Unsupported(f"'{source}' is not GLIDE's {part.name} for inpainting; give base_inpaint.pt and upsample_inpaint.pt.")
    reads = shapes["input_blocks.0.0.weight"][1]
    if reads != part.reads:
        raise Unsupported(
            f"'{source}' reads {reads} channels, and GLIDE's {part.name} for inpainting reads {part.reads}: give base_inpaint.pt "
            "and upsample_inpaint.pt, in this order; models that see no mask are not edited with."
        )
    architecture = read_architecture(shapes, part.res_blocks)
    with torch.device("meta"):
        unet, transformer = make_unet(architecture, part, shapes["positional_embedding"][1]), make_text(shapes)
    expected = {guided_diffusion.published_name(own, architecture) for own in unet.state_dict()}
    expected |= {glide_text.published_name(own) for own in transformer.state_dict()}
    check_complete(str(source), shapes.keys(), expected)
    return architecture


def _load_part(path: Path, part: Part, architecture: Architecture) -> tuple[UNet2DConditionModel, TextTransformer]:
    weights = load_file(path)
    with torch.device("meta"):  # drawing weights that are replaced would take long
        transformer = make_text({name: tuple(tensor.shape) for name, tensor in weights.items()})
        unet = make_unet(architecture, part, weights["positional_embedding"].shape[1])
    transformer.load_state_dict(to_torch(weights), assign=True)
    mapped = to_diffusers({name: tensor for name, tensor in weights.items() if not is_text(name)}, architecture)
    unet.load_state_dict(mapped, assign=True)
    return unet, transformer


def _call(index: int) -> Callable[[Any, Tensor, Tensor, Text], Tensor]:
    """How the UNet of the base (0) or the upsampler (1) is called, of whose texts `GlideText` makes one."""

    def call(unet: Any, x: Tensor, timestep: Tensor, text: Text) -> Tensor:
        assert text.pooled is not None
        states, pooled = (both.chunk(len(PARTS), dim=-1)[index] for both in (text.states, text.pooled))
        answer: Tensor = unet(x, timestep, encoder_hidden_states=states, class_labels=pooled).sample
        return answer

    return call


def from_folder(folder: Path, *, name: str, device: torch.device, dtype: torch.dtype) -> Backbone:
    """Load what `convert` wrote.

    Raises:
        Unsupported: Files of other models; told before weights are read.
        BackboneError: Files that are missing, damaged or incomplete.
    """
    for file in (*(part.file for part in PARTS), *VOCABULARY_FILES):
        if not (folder / file).is_file():
            raise BackboneError(f"'{folder}' lacks {file}; convert GLIDE again with: sfumato models convert-glide")
    shapes = [_shapes_in(folder / part.file) for part in PARTS]
    architectures = _check_parts(shapes, [folder / part.file for part in PARTS])
    unets, transformers = zip(
        *(_load_part(folder / part.file, part, made) for part, made in zip(PARTS, architectures, strict=True)), strict=True
    )
    tokenizer = GPT2Tokenizer.from_pretrained(folder, local_files_only=True)
    encoder = GlideText(tokenizer, [transformer.to(device, dtype) for transformer in transformers], device)
    base, upsampler = (
        Stage(unet=unet.to(device, dtype), call=_call(i), scheduler_config=part.noise)
        for i, (unet, part) in enumerate(zip(unets, PARTS, strict=True))
    )
    return cascade_backbone(
        base,
        upsampler,
        encoder,
        name=name,
        family="glide-inpainting",
        resolution=architectures[1].image_size,
        context=CONTEXT,
        device=device,
        dtype=dtype,
    )


def _shapes_in(path: Path) -> Shapes:
    check_file(path)
    return read_header(path).shapes


def _check_parts(shapes: Sequence[Shapes], sources: Sequence[Path]) -> list[Architecture]:
    """The architectures of base and upsampler; see `check_part`. They have to be of one model."""
    made = [check_part(each, part, source) for each, part, source in zip(shapes, PARTS, sources, strict=True)]
    texts = [(each["positional_embedding"], each["transformer_proj.weight"][0]) for each in shapes]
    if made[1].image_size != UPSCALING * made[0].image_size or texts[0] != texts[1]:
        raise Unsupported(f"'{sources[0]}' and '{sources[1]}' are not base and upsampler of one GLIDE model; fetch both again.")
    return made


def convert(base: Path, upsampler: Path, out: Path, vocabulary: Path | None = None) -> list[Architecture]:
    """Turn the two published pickles into a folder that `--model` takes: safetensors, configuration and vocabulary.

    Args:
        base, upsampler: base_inpaint.pt and upsample_inpaint.pt, or safetensors files of the same names. Pickles are read with
            torch's `weights_only`.
        out: Folder to make; it must not be there.
        vocabulary: Folder with GPT-2's vocab.json and merges.txt, or encoder.json and vocab.bpe; by default the cached model's.

    Returns:
        The architectures of base and upsampler.

    Raises:
        ModelNotFound: model-not-cached: no vocabulary.
        Unsupported, BackboneError: Another kind of checkpoint, or a damaged or incomplete one.
    """
    check_new(out)
    tables = _vocabulary(vocabulary)
    weights = [read_state_dict(file, allow_pickle=True) for file in (base, upsampler)]
    shapes = [{name: tuple(tensor.shape) for name, tensor in each.items()} for each in weights]
    architectures = _check_parts(shapes, [base, upsampler])
    known, tokens = len(read_json(tables["vocab.json"])), shapes[0]["token_embedding.weight"][0]
    if known != tokens:
        raise BackboneError(
            f"'{tables['vocab.json']}' has {known} tokens, and GLIDE knows {tokens}; give GPT-2's (--vocabulary)."
        )
    with written_folder(out) as made:
        for part, each in zip(PARTS, weights, strict=True):
            save_file({name: tensor.contiguous() for name, tensor in each.items()}, made / part.file, {"format": "pt"})
        for file, source in tables.items():
            shutil.copyfile(source, made / file)
        (made / "config.json").write_text(json.dumps({"_class_name": CLASS_NAME}) + "\n", encoding="utf-8")
    return architectures


def _vocabulary(folder: Path | None) -> dict[str, Path]:
    """The files of GPT-2's vocabulary, by the names that transformers has for them."""
    if folder is None:
        try:
            folder = cached_snapshot(VOCABULARY, holds=lambda found: (found / "vocab.json").is_file())
        except ModelNotFound as error:
            raise ModelNotFound(
                "GLIDE reads GPT-2's vocabulary, which is not on this machine: give a folder with vocab.json and merges.txt "
                f"(--vocabulary), or fetch it with: sfumato models pull {VOCABULARY}",
                code="model-not-cached",
            ) from error
    found = {}
    for file, other in VOCABULARY_FILES.items():
        path = next((folder / name for name in (file, other) if (folder / name).is_file()), None)
        if path is None:
            raise ModelNotFound(f"'{folder}' holds no {file} (or {other}); give a folder with GPT-2's vocabulary.")
        found[file] = path
    return found
