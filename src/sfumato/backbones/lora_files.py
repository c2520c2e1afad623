"""Detection of what an adapter file holds (LoRA, another kind of adapter, something else) from tensor names and shapes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.backbones.headers import UNET, Header, read_header
from sfumato.errors import BackboneError, Unsupported

_LOW_RANK = re.compile(r"(?P<layer>.+?)[._]lora(?:_linear_layer)?[._](?:down|up|A|B)(?:\.\w+)??(?:\.weight|\.bias)?")
_SCALE = re.compile(r"(?P<layer>.+)\.alpha")
_KINDS = {  # by what ends the name of a layer's tensor; see LyCORIS and peft
    "DoRA": re.compile(r"(?P<layer>.+)\.(?:dora_scale|lora_magnitude_vector.*)"),
    "LoHa": re.compile(r"(?P<layer>.+)\.hada_.*"),
    "LoKr": re.compile(r"(?P<layer>.+)\.lokr_.*"),
    "GLoRA": re.compile(r"(?P<layer>.+)\.[ab][12]\.weight"),
    "OFT": re.compile(r"(?P<layer>.+)\.(?:b?oft_.*|oft_blocks|oft_diag)"),
    "IA3": re.compile(r"(?P<layer>.+)\.(?:on_input|ia3_l.*)"),
    "full differences": re.compile(r"(?P<layer>.+)\.(?:diff|diff_b|w_norm|b_norm|set_weight)"),
    "LoRA with a third factor (Tucker)": re.compile(r"(?P<layer>.+)\.lora_mid\.weight"),
    "embeddings": re.compile(r"(?P<layer>(?:bundle_emb|emb_params|text_encoders).*)"),
}
_UNET_BLOCKS = ("down_blocks", "up_blocks", "mid_block", "input_blocks", "output_blocks", "middle_block")
_TRANSFORMER_BLOCKS = ("double_blocks", "single_blocks", "joint_blocks", "single_transformer_blocks", "transformer.")
_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """An adapter's file.

    Args:
        header: Its names, shapes and metadata.
        layers: Names of its low-rank layers, as the file has them.
        others: Layers of other kinds, by the kind.
    """

    header: Header
    layers: frozenset[str]
    others: Mapping[str, frozenset[str]]

    @property
    def path(self) -> Path:
        """The file."""
        return self.header.path

    def weights(self) -> dict[str, Any]:
        """Its low-rank layers alone, as tensors."""
        from safetensors.torch import load_file

        return {name: tensor for name, tensor in load_file(self.path).items() if _layer(name) in self.layers}

    def check_family(self, pipe: Any) -> None:
        """Refuse an adapter of another family, detected by its blocks and by the text width of its layers.

        Raises:
            Unsupported: One sentence that says what it was trained for.
        """
        unet = getattr(pipe, "unet", None)
        for_unet = any(block in layer for layer in self.layers for block in _UNET_BLOCKS)
        for_transformer = not for_unet and any(block in layer for layer in self.layers for block in _TRANSFORMER_BLOCKS)
        if (unet is not None and for_transformer) or (unet is None and for_unet):
            what = "a transformer, as FLUX.1" if for_transformer else "a UNet, as Stable Diffusion 1.x, 2.x or XL"
            raise Unsupported(f"'{self.path}' is a LoRA for {what}, which this model is not; give a LoRA of this model's family.")
        given, expected = self._text_width(), getattr(getattr(unet, "config", None), "cross_attention_dim", None)
        if given is not None and isinstance(expected, int) and given != expected:
            named = f" ({_WIDTHS[given]})" if given in _WIDTHS else ""
            raise Unsupported(
                f"'{self.path}' is a LoRA for another family of models: its layers read text {given} numbers wide{named}, this "
                f"model's {expected}; give a LoRA of this model's family."
            )

    def _text_width(self) -> int | None:
        for name, shape in self.header.shapes.items():
            if re.search(r"attn2[._](?:processor\.)?to_[kv][._]lora[._](?:down|A)\b", name) and len(shape) > 1:
                return shape[1]
        return None

    def not_among(self, applied: set[str]) -> list[str]:
        """Layers that are not among those of a model, which have the name of their network before them."""
        known = {_plain(layer.partition(".")[2]) for layer in applied}
        return sorted(layer for layer in self.layers if not any(_plain(layer).endswith(name) for name in known))


def read_lora(path: Path) -> LoraFile:
    """What an adapter's file holds.

    Raises:
        Unsupported: If it is a model, or holds no low-rank layers but adapters of other kinds; or DoRA, whose low-rank part is
            wrong without its magnitudes.
        BackboneError: If it holds no adapter.
    """
    header = read_header(path)
    if header.starts(UNET):
        raise Unsupported(f"'{path}' is a model, not a LoRA; give it with --model.")
    others: dict[str, set[str]] = {}
    low_rank: set[str] = set()
    for name in header.shapes:
        if found := next(((kind, match) for kind, form in _KINDS.items() if (match := form.fullmatch(name))), None):
            others.setdefault(found[0], set()).add(found[1]["layer"])
        elif match := _LOW_RANK.fullmatch(name):
            low_rank.add(match["layer"])
    layers = low_rank.difference(*others.values()) if others else low_rank
    if others and (not layers or "DoRA" in others):
        kind = "DoRA" if "DoRA" in others else max(others, key=lambda kind: len(others[kind]))
        raise Unsupported(
            f"'{path}' holds an adapter of the kind {kind} ({len(others[kind])} layers), which is not supported; give a plain "
            "LoRA, or extract one from a model that it was merged into."
        )
    if not layers:
        raise BackboneError(f"'{path}' holds no LoRA weights; give a LoRA file in safetensors.")
    frozen = {kind: frozenset(names) for kind, names in others.items()}
    return LoraFile(header=header, layers=frozenset(layers), others=frozen)


def _layer(name: str) -> str | None:
    match = _LOW_RANK.fullmatch(name) or _SCALE.fullmatch(name)
    return match["layer"] if match else None


def _plain(layer: str) -> str:
    """A layer's name without what formats add: dots or underscores, the processor of an attention."""
    return layer.replace(".processor", "").replace(".", "_")
