"""Loading of a separate autoencoder (`--vae`), a folder or a single file, which replaces the model's own."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.backbones.checkpoints import check_file, read_json
from sfumato.backbones.headers import AUTOENCODER, Header, read_header
from sfumato.errors import BackboneError, ModelNotFound, Unsupported

if TYPE_CHECKING:
    import torch

KIND = "AutoencoderKL"
SEEING = "AsymmetricAutoencoderKL"  # its decoder sees the picture around the edit (Zhu et al., arXiv:2306.04632)
SCALE = 0.18215  # where a configuration has none
_FIRST = "conv_in.weight"  # of the decoder, under both names of the rest; it takes the code


def find_vae(vae: str) -> Path:
    """The file or folder of an autoencoder; of a whole model's folder its autoencoder.

    Raises:
        ModelNotFound: If there is none.
    """
    path = Path(vae).expanduser()
    if path.is_dir() and not (path / "config.json").is_file() and (path / "vae" / "config.json").is_file():
        return path / "vae"
    if path.is_file() or (path / "config.json").is_file():
        return path
    raise ModelNotFound(
        f"There is no autoencoder '{vae}'; give a .safetensors file, or a folder that holds config.json and weights."
    )


def load_vae(vae: str, model: str, config: dict[str, Any], dtype: "torch.dtype", *, allow_pickle: bool) -> Any:
    """Load an autoencoder for a model.

    Args:
        vae: File or folder.
        model: Name of the model, for messages.
        config: Configuration of the model's own autoencoder, which a single file has not.
        dtype: Its number format.
        allow_pickle: Whether a pickled file may be read, with `weights_only`.

    Raises:
        Unsupported: If it is neither an AutoencoderKL nor an AsymmetricAutoencoderKL, or made for other latents than the model's.
        BackboneError: If its weights do not fit the model's configuration.
    """
    import torch
    from diffusers.models.autoencoders.autoencoder_asym_kl import AsymmetricAutoencoderKL
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    path = find_vae(vae)
    if path.is_dir():
        own = read_json(path / "config.json")
        kind = {KIND: AutoencoderKL, SEEING: AsymmetricAutoencoderKL}.get(str(own.get("_class_name")))
        if kind is None:
            raise Unsupported(f"'{vae}' holds a {own.get('_class_name')}, where --vae takes an {KIND} or an {SEEING}.")
        _check_channels(vae, int(own.get("latent_channels", 4)), model, config)
        if kind is AsymmetricAutoencoderKL:
            _check_latents(vae, own, model, config)
        safe = None if allow_pickle else True
        return kind.from_pretrained(path, use_safetensors=safe, local_files_only=True, dtype=dtype)
    check_file(path, allow_pickle=allow_pickle)
    header = read_header(path)
    prefix = AUTOENCODER if header.starts(AUTOENCODER) else ""
    channels = header.channels_in(f"{prefix}decoder.{_FIRST}")
    if channels is None or header.channels_in(f"{prefix}encoder.{_FIRST}") != 3:
        raise Unsupported(f"'{vae}' holds no autoencoder of pictures; give one as .safetensors file or as folder.")
    if header.starts(f"{prefix}decoder.condition_encoder."):
        raise Unsupported(f"'{vae}' holds an {SEEING} without its configuration; give its folder, with config.json.")
    _check_channels(vae, channels, model, config)
    single = _from_file(path, header, prefix, config, AutoencoderKL)
    return torch.nn.Module.to(single, dtype)  # diffusers' own warns of parts kept in float32, of which there are none


def _check_channels(vae: str, channels: int, model: str, config: dict[str, Any]) -> None:
    expected = int(config.get("latent_channels", 4))
    if channels != expected:
        raise Unsupported(
            f"The autoencoder '{vae}' has a code of {channels} channels where '{model}' works on {expected}: it belongs to "
            "another family of models; give one of this model's family."
        )


def _check_latents(vae: str, own: dict[str, Any], model: str, config: dict[str, Any]) -> None:
    """Refuse a seeing decoder for other latents than those it was trained on; SDXL's have as many channels.

    Raises:
        Unsupported: If scale, shift or pixels a cell differ.
    """
    scales = [float(each.get("scaling_factor") or SCALE) for each in (own, config)]
    widths = own.get("down_block_out_channels", "?"), config.get("block_out_channels", "?")  # one by default
    factors = [2 ** (len(each) - 1) for each in widths]
    if scales[0] != scales[1] or factors[0] != factors[1] or config.get("shift_factor") or config.get("latents_mean"):
        raise Unsupported(
            f"The {SEEING} '{vae}' decodes latents of {factors[0]} pixels a cell, scaled by {scales[0]:g}, as Stable Diffusion "
            f"1.x and 2.x have them; those of '{model}' differ ({factors[1]} pixels, scaled by {scales[1]:g}): leave --vae out."
        )


def _from_file(path: Path, header: Header, prefix: str, config: dict[str, Any], kind: Any) -> Any:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint, load_single_file_checkpoint

    parts = tuple(prefix + part for part in ("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
    read = load_single_file_checkpoint(str(path), local_files_only=True)
    weights = {name: tensor for name, tensor in read.items() if name.startswith(parts)}
    vae = kind.from_config(config)
    try:
        if header.starts("encoder.down_blocks."):  # diffusers' names, in older files with others for attention
            weights = {_renamed(name): tensor for name, tensor in weights.items()}
        else:
            weights = convert_ldm_vae_checkpoint(weights, dict(vae.config))
        vae.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except (RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BackboneError(
            f"'{path}' does not fit this model's autoencoder ({reason}); give one of this model's family."
        ) from error
    return vae


def _renamed(name: str) -> str:
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        name = name.replace(f"attentions.0.{old}.", f"attentions.0.{new}.")
    return name
