"""torch.compile for the blocks that a network repeats: they are its cost, and compile in a fraction of the whole's time."""

from typing import Any

from torch import nn

from sfumato.backbones.base import Backbone
from sfumato.errors import Unsupported

NOTE = (
    "The denoiser's blocks were compiled (--compile): the first step at each size waits for that, and results differ from those "
    "without it by rounding."
)


def compile_blocks(backbone: Backbone) -> None:
    """Let the denoiser's repeated blocks be compiled when they are first called; in place.

    Raises:
        Unsupported: A network that repeats no blocks which diffusers knows.
    """
    parts = [part for part in vars(backbone.denoiser).values() if isinstance(part, nn.Module)]
    kinds = {kind for part in parts for kind in getattr(part, "_repeated_blocks", None) or ()}
    blocks: list[Any] = [block for part in parts for block in part.modules() if type(block).__name__ in kinds]
    if not blocks:
        raise Unsupported(f"{backbone.traits.name} has no repeated blocks of attention to compile; leave out --compile.")
    for block in blocks:
        block.compile()
    backbone.loading_notes.append(NOTE)
