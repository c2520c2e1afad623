"""Attributes of a loaded model by their former names, kept until version 0.2 for programs that read them."""

import warnings
from operator import attrgetter
from typing import TYPE_CHECKING, Any

_FORMER = {
    "name": "traits.name",
    "family": "traits.family",
    "device": "traits.device",
    "dtype": "traits.dtype",
    "latent_channels": "traits.latent_channels",
    "factor": "traits.factor",
    "resolution": "traits.resolution",
    "context": "traits.context",
    "scheduler_config": "traits.scheduler_config",
    "schedule": "traits.schedule",
    "prediction_type": "traits.prediction",
    "vae": "autoencoder.vae",
    "encode": "autoencoder.encode",
    "decode": "autoencoder.decode",
    "unscale": "autoencoder.unscale",
    "text_readers": "text_encoder.text_readers",
    "known_words": "text_encoder.known_words",
    "unknown_words": "text_encoder.unknown_words",
    "_text": "text_encoder._pipe",
}


class FormerNames:
    """Gives the attributes of a `Backbone` by the names that they had before it had four roles, with a warning."""

    if not TYPE_CHECKING:  # or every misspelt attribute would pass as one of these

        def __getattr__(self, name: str) -> Any:
            """The attribute, if this is a former name of one."""
            if name not in _FORMER:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            message = f"sfumato: backbone.{name} is backbone.{_FORMER[name]} now, and goes with version 0.2."
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            return attrgetter(_FORMER[name])(self)
