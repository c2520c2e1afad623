"""Notices and bars of the libraries, kept off the terminal."""

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


def hush_libraries() -> None:
    """Keep the notices and bars of diffusers and transformers off the terminal, where ours are."""
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
