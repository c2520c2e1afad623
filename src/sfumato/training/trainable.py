"""What checkpoints can be trained: refused by configuration or header, before weights are read."""

from pathlib import Path

from sfumato.backbones import hub
from sfumato.backbones.capabilities import BRANCHES, Capability, Layout
from sfumato.backbones.checkpoints import check_file, check_folder_layout, folder_family, read_index
from sfumato.backbones.headers import read_header
from sfumato.backbones.single_file import check_kind, family_of, layout_of
from sfumato.errors import Unsupported
from sfumato.training import publishing


def check_base(model: str, gives: Capability, *, lora: bool, allow_pickle: bool) -> None:
    """Refuse what cannot be trained so, by configuration or header: no weights are read.

    Args:
        model: As for `loading.load`.
        gives: What the training is for.
        lora: Whether a LoRA is trained.
        allow_pickle: Whether the model may be a pickle.

    Raises:
        Unsupported: Another family of models, a branch beside a model that sees the mask itself, or a LoRA that would have to
            widen the first layer.
        ModelNotFound, UnsafeCheckpoint, BackboneError: See `loading.load`.
    """
    if model in hub.EMBEDDED:
        raise Unsupported(f"--model is for checkpoints, and '{model}' ships with the package: leave --model out to train that.")
    family, layout = _described(hub.locate(model), model, allow_pickle)
    if family not in publishing.PIPELINES:
        raise Unsupported(f"'{model}' is no Stable Diffusion 1.x, 2.x or XL, of which these methods are trained; give one.")
    if gives in BRANCHES and layout is Layout.INPAINTING:
        raise Unsupported(
            f"'{model}' sees the mask itself, and a branch is trained beside a model that does not; give a text-to-image one."
        )
    if lora and layout is not Layout.INPAINTING:
        raise Unsupported(
            f"'{model}' reads latents alone, and no LoRA gives its first layer the further inputs; leave --lora out, or give an "
            "inpainting checkpoint."
        )


def _described(source: Path, model: str, allow_pickle: bool) -> tuple[str, Layout | None]:
    """Family and layout of a model."""
    if source.is_file():
        check_file(source, allow_pickle=allow_pickle)
        header = read_header(source)
        check_kind(header)
        return family_of(header), layout_of(header)
    layout = check_folder_layout(source, read_index(source), model)
    family, _ = folder_family(source) or ("", None)
    return family, layout
